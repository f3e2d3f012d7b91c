"""The default engine: batched decoding in process, on any transformers causal LM."""

from collections.abc import Sequence

import torch
from torch import Tensor

from laser_lightning.batching import Rollouts, length_mask, pad_rows
from laser_lightning.errors import UserError
from laser_lightning.logprobs import reward_token_log_probs
from laser_lightning.policy import Policy
from laser_lightning.rollout.cache import GrowingCache
from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.sampling import sample


class TransformersEngine(RolloutEngine):
    """Decode a round of prompts with the policy itself.

    Each prompt is prefilled once and its cache repeated for the group. A response that ends is fed through the model
    once more, with its ``<eos>``; the logits of that step hold the reward token's log-prob, so the score needs no
    pass of its own. Ended rows leave the batch.

    Args:
        max_batch_size: most responses decoded together; the round is decoded in several parts when there are more.
        max_cached_tokens: most tokens in the cache together: responses decoded together times the longest of their
            prompts plus ``sampling.max_response_tokens``. By default only ``max_batch_size`` bounds a part. A cached
            token takes 2 x layers x key-value heads x head size x bytes of a number: 12 kB for Qwen2.5-0.5B in
            bfloat16.
        drop_fraction: ended rows are dropped from the running batch when they are at least this share of it.
            Dropping copies the cache of as many rows into their places.
        scores: read the reward token's log-prob off ended rows; without it those of finished responses are NaN. Only
            for measuring what the score costs: LaSeRModule needs it.
    """

    def __init__(
        self,
        max_batch_size: int = 1024,
        max_cached_tokens: int | None = None,
        drop_fraction: float = 0.125,
        scores: bool = True,
    ) -> None:
        if max_batch_size < 1 or not 0 <= drop_fraction <= 1:
            raise UserError("engine.max_batch_size must be at least 1 and engine.drop_fraction between 0 and 1.")
        if max_cached_tokens is not None and max_cached_tokens < 1:
            raise UserError("engine.max_cached_tokens must be at least 1, or null for no bound.")
        self.max_batch_size = max_batch_size
        self.max_cached_tokens = max_cached_tokens
        self.drop_fraction = drop_fraction
        self.scores = scores

    @torch.no_grad()
    def generate(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_id: int,
        generator: torch.Generator,
    ) -> Rollouts:
        """Draw ``group_size`` responses for each prompt (see ``RolloutEngine``)."""
        parts = self._parts([len(prompt) for prompt in prompts], group_size, sampling.max_response_tokens)
        longest_prompt = max((len(prompt) for prompt in prompts), default=0)
        limit = getattr(policy.lm.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and longest_prompt + sampling.max_response_tokens > limit:
            raise UserError(
                f"A prompt of {longest_prompt} tokens and sampling.max_response_tokens = "
                f"{sampling.max_response_tokens} do not fit into the {limit} positions of the model: lower "
                "data.max_prompt_tokens or the latter."
            )
        was_training = policy.lm.training
        policy.lm.eval()
        try:
            width = sampling.max_response_tokens
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
                reward_token_log_probs=torch.full((total,), torch.nan, device=device),
            )
            for part in parts:
                slots = torch.tensor([p * group_size + g for p in part for g in range(group_size)], device=device)
                batch = [prompts[p] for p in part]
                _Decoding(self, policy, out, slots, sampling, reward_token_id, generator).run(batch, group_size)
        finally:
            policy.lm.train(was_training)
        longest = max(out.response_lengths.tolist(), default=0)
        out.response_ids = out.response_ids[:, :longest]
        out.sampling_log_probs = out.sampling_log_probs[:, :longest]
        if not bool(out.sampling_log_probs.isfinite().all()):
            raise UserError("The policy's logits are not finite: its weights are damaged, or overflow in their dtype.")
        return out

    def _parts(self, lengths: list[int], group_size: int, max_response_tokens: int) -> list[list[int]]:
        """Which prompts are decoded together. Those of like length share a part, so that little is padded."""
        if group_size > self.max_batch_size:
            raise UserError(f"A group of {group_size} is larger than engine.max_batch_size = {self.max_batch_size}.")
        budget = self.max_cached_tokens
        longest = max(lengths, default=0) + max_response_tokens
        if budget is not None and group_size * longest > budget:
            raise UserError(
                f"A group of {group_size} responses with a prompt of {longest - max_response_tokens} tokens and "
                f"sampling.max_response_tokens = {max_response_tokens} takes {group_size * longest} cached tokens, and "
                f"engine.max_cached_tokens is {budget}: raise it, or lower the group size or one of the lengths."
            )
        parts: list[list[int]] = []
        for prompt in sorted(range(len(lengths)), key=lengths.__getitem__):
            rows = (len(parts[-1]) + 1) * group_size if parts else 0
            tokens = rows * (lengths[prompt] + max_response_tokens)
            if not parts or rows > self.max_batch_size or (budget is not None and tokens > budget):
                parts.append([])
            parts[-1].append(prompt)
        return parts


class _Decoding:
    """The running batch: which slots of the result its rows fill, their cache and their attention mask."""

    def __init__(
        self,
        engine: TransformersEngine,
        policy: Policy,
        out: Rollouts,
        slots: Tensor,
        sampling: Sampling,
        reward_token_id: int,
        generator: torch.Generator,
    ) -> None:
        self.policy, self.out, self.slots, self.sampling = policy, out, slots, sampling
        self.reward_token_id, self.generator = reward_token_id, generator
        self.drop_fraction, self.scores = engine.drop_fraction, engine.scores
        self.eos = torch.tensor(policy.eos_token_ids, device=slots.device)

    def run(self, prompts: Sequence[Sequence[int]], group_size: int) -> None:
        """Decode until every row has ended or reached the length limit."""
        logits = self._prefill(prompts, group_size)
        if not bool(logits.isfinite().all()):
            raise UserError("The policy's logits are not finite: its weights are damaged, or overflow in their dtype.")
        live = torch.ones_like(self.slots, dtype=torch.bool)  # still being sampled
        limit = self.sampling.max_response_tokens
        for step in range(limit):
            tokens, log_probs = sample(logits, self.sampling, self.generator)
            ended = live & torch.isin(tokens, self.eos)
            self._record(step, tokens, log_probs, live, ended)
            live = live & ~ended
            unscored = ended & self.scores  # the next step's logits hold their scores
            last = step + 1 == limit
            # The one synchronisation with the device per token.
            live_count, unscored_count = torch.stack((live.sum(), unscored.sum())).tolist()
            if last or live_count == 0:
                if unscored_count:
                    rows = self._keep(unscored, unscored_count)
                    self._score(self._step(tokens[rows], step), unscored[rows])
                return
            if len(live) - live_count - unscored_count >= max(1.0, self.drop_fraction * len(live)):
                rows = self._keep(live | unscored, live_count + unscored_count)
                tokens, live, unscored = tokens[rows], live[rows], unscored[rows]
            logits = self._step(tokens, step)
            if unscored_count:
                self._score(logits, unscored)

    def _prefill(self, prompts: Sequence[Sequence[int]], group_size: int) -> Tensor:
        """Run each prompt once; return the logits [B, V] of its last token, repeated for the group."""
        ids, lengths = (t.to(self.slots.device) for t in pad_rows(prompts, self.policy.pad_token_id, left=True))
        mask = length_mask(lengths, ids.shape[1]).flip(1)
        self.padded = not bool(mask.all())
        self.cache = GrowingCache(self.policy.lm.config, len(ids), ids.shape[1] + self.sampling.max_response_tokens)
        self.mask_is_ready = _takes_finished_masks(self.policy, self.cache)
        hidden = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0))
        self.cache.batch_repeat_interleave(group_size)
        self.prompt_lengths = lengths.repeat_interleave(group_size)
        self.mask = torch.cat(
            (
                mask.repeat_interleave(group_size, 0),
                mask.new_ones(len(self.slots), self.sampling.max_response_tokens),
            ),
            1,
        )
        self.prompt_width = ids.shape[1]
        return self.policy.head(hidden).repeat_interleave(group_size, 0)

    def _step(self, tokens: Tensor, step: int) -> Tensor:
        """Feed the tokens [B] sampled at ``step``; return the logits [B, V] of the next ones."""
        mask = self.mask[:, : self.prompt_width + step + 1]
        if self.mask_is_ready:
            mask = mask[:, None, None]
        return self.policy.head(self._forward(tokens[:, None], mask, (self.prompt_lengths + step)[:, None]))

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """[B, D] hidden states of the last place."""
        decoder = self.policy.lm.get_decoder()
        output = decoder(
            input_ids=ids,
            attention_mask=mask if self.padded else None,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]

    def _record(self, step: int, tokens: Tensor, log_probs: Tensor, live: Tensor, ended: Tensor) -> None:
        # Written for all rows with masks, since picking the live ones would wait for the device.
        out, slots = self.out, self.slots
        out.response_ids[slots, step] = tokens.where(live, self.policy.pad_token_id)
        out.sampling_log_probs[slots, step] = log_probs.where(live, 0.0)
        out.response_lengths[slots] += live
        out.finished[slots] |= ended

    def _score(self, logits: Tensor, rows: Tensor) -> None:
        chosen = rows.nonzero().squeeze(-1)
        scores = reward_token_log_probs(logits.index_select(0, chosen), self.reward_token_id)
        self.out.reward_token_log_probs.index_copy_(0, self.slots.index_select(0, chosen), scores)

    def _keep(self, needed: Tensor, count: int) -> Tensor:
        """Drop all but the ``count`` rows that are needed; return which one each of those left was, [count].

        Rows from the end take the places of those dropped, so that few have to move.
        """
        rows = torch.arange(count, device=needed.device)
        rows[~needed[:count]] = count + needed[count:].nonzero().squeeze(-1)
        self.cache.batch_select_indices(rows)
        self.slots, self.mask, self.prompt_lengths = self.slots[rows], self.mask[rows], self.prompt_lengths[rows]
        return rows


def _takes_finished_masks(policy: Policy, cache: GrowingCache) -> bool:
    """Whether a step of decoding may be given its [B, 1, 1, L] mask as attention uses it.

    From a [B, L] mask transformers makes the same one anew in every step, and waits for the device to see whether any
    place is padding at all. Models of other packages, windows and other attentions get the [B, L] mask.
    """
    lm = policy.lm
    ours = (
        type(lm).__module__.startswith("transformers.") and lm.config.get_text_config()._attn_implementation == "sdpa"
    )
    return ours and cache.only_full_attention
