"""The default engine: batched decoding in process, on any transformers causal LM."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from laser_lightning.batching import Rollouts, length_mask, pad_rows
from laser_lightning.errors import UserError
from laser_lightning.logprobs import reward_token_log_probs
from laser_lightning.policy import Policy
from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.sampling import sample


class TransformersEngine(RolloutEngine):
    """Decode a round of prompts with the policy itself.

    Each prompt is prefilled once and its cache repeated for the group. A response that ends is fed through the model
    once more, with its ``<eos>``; the logits of that step hold the reward token's log-prob, so the score needs no
    pass of its own. Ended rows leave the batch.

    Args:
        max_batch_size: most responses decoded together; the round is decoded in several parts when there are more.
        drop_fraction: ended rows are dropped from the running batch when they are at least this share of it.
            Dropping copies the cache, so dropping every row at once costs more than it saves.
        scores: read the reward token's log-prob off ended rows; without it those of finished responses are NaN. Only
            for measuring what the score costs: LaSeRModule needs it.
    """

    def __init__(self, max_batch_size: int = 1024, drop_fraction: float = 0.125, scores: bool = True) -> None:
        if max_batch_size < 1 or not 0 <= drop_fraction <= 1:
            raise UserError("engine.max_batch_size must be at least 1 and engine.drop_fraction between 0 and 1.")
        self.max_batch_size = max_batch_size
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
        if group_size > self.max_batch_size:
            raise UserError(f"A group of {group_size} is larger than engine.max_batch_size = {self.max_batch_size}.")
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
            # Prompts of like length share a part, so that little is padded.
            order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
            per_part = self.max_batch_size // group_size
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
            for start in range(0, len(order), per_part):
                part = order[start : start + per_part]
                slots = torch.tensor([p * group_size + g for p in part for g in range(group_size)], device=device)
                batch = [prompts[p] for p in part]
                _Decoding(self, policy, out, slots, sampling, reward_token_id, generator).run(batch, group_size)
        finally:
            policy.lm.train(was_training)
        longest = max(out.response_lengths.tolist(), default=0)
        out.response_ids = out.response_ids[:, :longest]
        out.sampling_log_probs = out.sampling_log_probs[:, :longest]
        return out


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
        self.cache = DynamicCache(config=policy.lm.config)

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
                    self._keep(unscored)
                    self._score(self._step(tokens[unscored], step), unscored[unscored])
                return
            if len(live) - live_count - unscored_count >= max(1.0, self.drop_fraction * len(live)):
                needed = live | unscored
                self._keep(needed)
                tokens, live, unscored = tokens[needed], live[needed], unscored[needed]
            logits = self._step(tokens, step)
            if unscored_count:
                self._score(logits, unscored)

    def _prefill(self, prompts: Sequence[Sequence[int]], group_size: int) -> Tensor:
        """Run each prompt once; return the logits [B, V] of its last token, repeated for the group."""
        ids, lengths = (t.to(self.slots.device) for t in pad_rows(prompts, self.policy.pad_token_id, left=True))
        mask = length_mask(lengths, ids.shape[1]).flip(1)
        self.padded = not bool(mask.all())
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

    def _keep(self, rows: Tensor) -> None:
        """Drop the other rows from the running batch."""
        self.cache.batch_select_indices(rows.nonzero().squeeze(-1))
        self.slots, self.mask, self.prompt_lengths = (
            self.slots[rows],
            self.mask[rows],
            self.prompt_lengths[rows],
        )
