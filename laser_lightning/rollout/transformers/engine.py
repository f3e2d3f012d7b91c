"""The default engine: batched decoding in process, on any transformers causal LM."""

import warnings
from collections.abc import Sequence

import torch

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts, pad_rows
from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.non_finite import refuse_damaged
from laser_lightning.rollout.transformers.compiled import CompiledDecoding, CompiledSteps
from laser_lightning.rollout.transformers.decoding import BatchSettings, Decoding
from laser_lightning.rollout.transformers.memory import default_cached_tokens, token_bytes
from laser_lightning.rollout.transformers.whole_passes import WholePasses, cache_obstacle


class TransformersEngine(RolloutEngine):
    """Decode a round of prompts with the policy itself.

    Each prompt is prefilled once and its cache repeated for the group. A response that ends is fed through the model
    once more, with its ``<eos>``; the logits of that step hold the reward token's log-prob, so the score needs no
    pass of its own. Ended rows leave the batch, and in a larger round the groups of waiting prompts take their
    places. Where layers hold more than keys and values (linear attention, convolutions), a larger round is
    decoded in parts, one after the other.

    Args:
        max_batch_size: most responses decoded together.
        max_cached_tokens: most tokens in the cache together: responses decoded together times the longest of their
            prompts plus ``sampling.max_response_tokens``, and an eighth more (at most 64 tokens) while prompts wait.
            A cached token takes 2 x layers x key-value heads x head size x bytes of a number: 12 kB for Qwen2.5-0.5B
            in bfloat16. null for as many as fit into a third of the memory of the device (without CUDA: of the host,
            divided by the number of processes), which is said where it leaves fewer rows; a group always fits.
        max_prefill_tokens: most tokens, padding included, in a pass over prompts: more prompts are run in several
            passes, and a longer one piece by piece. It changes memory, and results by rounding only. Models whose
            layers hold more than keys and values run the prompts of a batch in one pass in any case.
        drop_fraction: ended rows are dropped from the running batch when they are at least this share of it, and
            waiting prompts join it when they fill at least this share. Dropping copies the cache of as many rows
            into their places.
        scores: read the reward token's log-prob off ended rows; without it those of finished responses are NaN. Only
            for measuring what the score costs: LaSeRModule needs it.
        compile: run the steps of decoding (not the prompts) through ``torch.compile``, on CUDA in the mode that
            captures graphs, for less time between kernels. Shapes then stay the same: numbers of rows are powers of
            two, each compiled when it is first met (half a minute or more in all), and every step runs over all
            columns of the cache, which has room for the longest prompt plus ``sampling.max_response_tokens``, rounded
            up to 128, and stays in memory between rounds, through updates too. Only for models of transformers whose
            layers all attend to every token, with ``policy.attention`` sdpa. Tested on CPU; tried once on a
            GPU, where it decoded four times as fast.
        use_cache: keep the keys, values and states of the tokens before, so that a token costs a pass over itself
            alone. Without, each token costs a pass over its whole sequence: exact for any causal model, and slow.
            Models that no cache is known to be right for (no attention layer, a cache of their own, no positions) are
            decoded so in any case, with a warning; ``max_cached_tokens`` then bounds the tokens of the running batch.
    """

    def __init__(
        self,
        max_batch_size: int = 1024,
        max_cached_tokens: int | None = None,
        drop_fraction: float = 0.125,
        scores: bool = True,
        compile: bool = False,
        use_cache: bool = True,
        max_prefill_tokens: int = 16_384,
    ) -> None:
        if max_batch_size < 1 or not 0 <= drop_fraction <= 1:
            raise UserError("engine.max_batch_size must be at least 1 and engine.drop_fraction between 0 and 1.")
        if max_cached_tokens is not None and max_cached_tokens < 1:
            raise UserError("engine.max_cached_tokens must be at least 1, or null for what the machine has room for.")
        if max_prefill_tokens < 1:
            raise UserError(f"engine.max_prefill_tokens is {max_prefill_tokens}, and must be at least 1.")
        self.max_batch_size = max_batch_size
        self.max_cached_tokens = max_cached_tokens
        self.max_prefill_tokens = max_prefill_tokens
        self.drop_fraction = drop_fraction
        self.scores = scores
        self.compile = compile
        self.use_cache = use_cache
        self._obstacle_told: str | None = None
        self._told_memory = False
        self._steps = CompiledSteps()

    def generate(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_ids: Sequence[int],
        generator: torch.Generator,
    ) -> Rollouts:
        """Draw ``group_size`` responses for each prompt (see ``RolloutEngine``)."""
        longest_prompt = max((len(prompt) for prompt in prompts), default=0)
        self._refuse_large_groups(longest_prompt, group_size, sampling.max_response_tokens)
        limit = policy.positions
        if limit is not None and longest_prompt + sampling.max_response_tokens > limit:
            raise UserError(
                f"A prompt of {longest_prompt} tokens and sampling.max_response_tokens = "
                f"{sampling.max_response_tokens} do not fit into the {limit} positions of the model: lower "
                "data.max_prompt_tokens or the latter."
            )
        was_training = policy.lm.training
        policy.lm.eval()
        try:
            # Tensors made in inference mode cannot be written outside of it, and the cache of compiled steps stays.
            with torch.inference_mode(torch.is_inference_mode_enabled() and not self.compile):
                out = self._decode(policy, prompts, group_size, sampling, reward_token_ids, generator)
        finally:
            policy.lm.train(was_training)
        longest = max(out.response_lengths.tolist(), default=0)
        out.response_ids = out.response_ids[:, :longest]
        out.sampling_log_probs = out.sampling_log_probs[:, :longest]
        refuse_damaged(out)
        return out

    @torch.no_grad()
    def _decode(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_ids: Sequence[int],
        generator: torch.Generator,
    ) -> Rollouts:
        width = sampling.max_response_tokens + 1  # see ``Decoding``
        total = len(prompts) * group_size
        device = policy.device
        prompt_ids, prompt_lengths = pad_rows(prompts, policy.pad_token_id)
        out = Rollouts(
            prompt_ids=prompt_ids.to(device),
            prompt_lengths=prompt_lengths.to(device),
            response_ids=torch.full((total, width), policy.pad_token_id, device=device),
            response_lengths=torch.zeros(total, dtype=torch.long, device=device),
            finished=torch.zeros(total, dtype=torch.bool, device=device),
            sampling_log_probs=torch.zeros(total, width, device=device),
            reward_token_log_probs=torch.full((total, len(reward_token_ids)), torch.nan, device=device),
        )
        if not prompts:
            return out
        caches = self._caches(policy)
        tokens = self.max_cached_tokens
        if tokens is None and caches:
            longest = max(len(prompt) for prompt in prompts) + sampling.max_response_tokens
            tokens = self._default_cached_tokens(policy, longest, group_size, total)
        settings = BatchSettings(self.max_batch_size, tokens, self.max_prefill_tokens, self.drop_fraction, self.scores)
        progress = self.progress or _nobody_listens
        rollout = (policy, prompts, out, sampling, reward_token_ids, generator, settings, progress)
        if not caches:
            WholePasses(*rollout).run()
        elif self.compile:
            CompiledDecoding(*rollout, self._steps).run()
        else:
            Decoding(*rollout).run()
        return out

    def _default_cached_tokens(self, policy: Policy, longest: int, group_size: int, rows: int) -> int:
        """What ``max_cached_tokens`` is where it is not given; says so once, where it makes the batch smaller.

        Args:
            policy: the model.
            longest: tokens of the longest prompt and of a response.
            group_size: responses per prompt.
            rows: responses of the round.
        """
        tokens = max(default_cached_tokens(policy), group_size * longest)
        if tokens < min(rows, self.max_batch_size) * longest and not self._told_memory:
            from lightning.pytorch.utilities import rank_zero_info  # the scorer decodes without the trainer

            self._told_memory = True
            size = tokens * token_bytes(policy) / 2**30
            rank_zero_info(
                f"Decoding keeps at most {tokens:,} tokens in its cache, {size:.3g} GiB, "
                f"so that up to {tokens // longest} responses of {longest} tokens are decoded together: "
                "engine.max_cached_tokens sets another number."
            )
        return tokens

    def _caches(self, policy: Policy) -> bool:
        """Whether this policy is decoded with a cache; says once why not, if it was not asked to be decoded without."""
        obstacle = cache_obstacle(policy) if self.use_cache else "engine.use_cache is false"
        if obstacle is None:
            return True
        if self.compile:
            raise UserError(f"engine.compile compiles steps with a cache, and {obstacle}: set engine.compile to false.")
        if self.use_cache and obstacle != self._obstacle_told:
            self._obstacle_told = obstacle
            warnings.warn(
                f"Decoding without a cache, since {obstacle}: every token costs a pass over its whole sequence, which "
                "is exact, and slow for long responses.",
                stacklevel=2,
            )
        return False

    def trial(self, rows: int) -> "TransformersEngine":
        """Make an engine of these settings, without what a subclass adds, for a small batch (see ``RolloutEngine``)."""
        trial = TransformersEngine()
        vars(trial).update(vars(self))
        trial.max_batch_size, trial.max_cached_tokens, trial.scores = rows, None, True
        trial._steps = CompiledSteps()
        return trial

    def close(self) -> None:
        """Release the cache and the graphs of compiled steps."""
        self._steps = CompiledSteps()

    def _refuse_large_groups(self, longest_prompt: int, group_size: int, max_response_tokens: int) -> None:
        if group_size > self.max_batch_size:
            raise UserError(f"A group of {group_size} is larger than engine.max_batch_size = {self.max_batch_size}.")
        tokens = group_size * (longest_prompt + max_response_tokens)
        if self.max_cached_tokens is not None and tokens > self.max_cached_tokens:
            raise UserError(
                f"A group of {group_size} responses with a prompt of {longest_prompt} tokens and "
                f"sampling.max_response_tokens = {max_response_tokens} takes {tokens} cached tokens, and "
                f"engine.max_cached_tokens is {self.max_cached_tokens}: raise it, or lower the group size or one of "
                "the lengths."
            )


def _nobody_listens(done: int, total: int) -> None:
    """Stands for whoever shows how far a rollout is."""
