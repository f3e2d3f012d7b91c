"""The running batch of the transformers engine: rows that end make place for prompts that wait."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.policy.logprobs import reward_token_log_probs
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts, length_mask, pad_rows
from laser_lightning.rollout.engine import Sampling
from laser_lightning.rollout.non_finite import DAMAGED
from laser_lightning.rollout.transformers.cache import LEAST_ROOM, GrowingCache, Room, cache_argument
from laser_lightning.rollout.transformers.rows import Rows
from laser_lightning.rollout.transformers.sampling import sample


@dataclass(frozen=True)
class BatchSettings:
    """How large a running batch is and what it does with ended rows (see ``TransformersEngine``)."""

    max_batch_size: int
    max_cached_tokens: int | None
    max_prefill_tokens: int
    drop_fraction: float
    scores: bool


@dataclass(eq=False)
class Decoding:
    """Decode one round in a running batch, which prompts that wait join when places are free (see ``Rows``).

    Args:
        policy: the model, in evaluation mode.
        prompts: of the whole round. The shortest are decoded first, so that those of like length come together.
        out: the record to fill. Its responses have room for one token more than they can be long.
        sampling: how to draw.
        reward_token_ids: ids of the tokens that are read behind each ``<eos>``.
        generator: the source of all randomness.
        settings: how many rows there are at a time.
        progress: told how many of the responses have ended, of how many.
    """

    policy: Policy
    prompts: Sequence[Sequence[int]]
    out: Rollouts
    sampling: Sampling
    reward_token_ids: Sequence[int]
    generator: torch.Generator
    settings: BatchSettings
    progress: Callable[[int, int], None]

    def __post_init__(self) -> None:
        policy, prompts = self.policy, self.prompts
        self.group_size = self.out.group_size
        self.eos = torch.tensor(policy.eos_token_ids, device=policy.device)
        self.waiting = deque(sorted(range(len(prompts)), key=lambda prompt: len(prompts[prompt])))
        self.room = Room(columns=0)
        self.refills = False  # a round that fits needs no spare columns
        self.can_join = self._prepare()
        self.refills = self.can_join and self._fitting(rows=0) < len(prompts)
        self.rows = Rows.begin(*self.eos.new_empty(2, 0))
        self.width = 0  # columns of the cache
        self.padded = False

    def _prepare(self) -> bool:
        """Make what keeps the past of the rows; return whether rows can join others that are under way."""
        self.cache_argument = cache_argument(self.policy.decoder)
        self.cache = self._new_cache(rows=0)
        self.mask_is_ready = _takes_finished_masks(self.policy, self.cache)
        return self.cache.only_attention

    def run(self) -> None:
        """Decode until every response has ended or reached the length limit."""
        logits, told = self._join(self._fitting(rows=0)), 0
        if not bool(logits.isfinite().all(dim=1).any()):
            raise UserError(DAMAGED)
        while True:
            tokens, log_probs = sample(logits, self.sampling, self.generator)
            ended = self.rows.live & torch.isin(tokens, self.eos)
            self._record(tokens, log_probs, ended)
            unscored = ended & self.settings.scores  # the next step's logits hold their scores
            # The one synchronisation with the device per token.
            live, needed = torch.stack((self.rows.live.sum(), (self.rows.live | unscored).sum())).tolist()
            if (over := len(self.out) - live - len(self.waiting) * self.group_size) > told:
                told = over
                self.progress(told, len(self.out))
            if needed:
                done = len(self.rows) - needed
                if done and (live == 0 or done >= self.settings.drop_fraction * len(self.rows)):
                    kept = self._keep(self.rows.live | unscored, needed)
                    tokens, unscored = tokens[kept], unscored[kept]
                if self.width == self.room.columns:
                    self._cut(self.rows.live | unscored)
                logits = self._step(tokens)
            if needed > live:
                self._score(logits, unscored)
            if joining := self._joining(live):
                kept = self._keep(self.rows.live, live)
                logits = torch.cat((logits[kept], self._join(joining)))
            elif live == 0:
                return

    # ------------------------------------------------------ prompts that join

    def _capacity(self, prompt_length: int) -> tuple[int, int]:
        """Most rows, and columns, of a batch whose longest prompt is this one."""
        columns = prompt_length + self.sampling.max_response_tokens
        if self.refills:  # spare ones, since moving the cache to the left, when they are used up, copies it
            columns += min(LEAST_ROOM, columns // 8)
        rows, budget = self.settings.max_batch_size, self.settings.max_cached_tokens
        if budget is not None:
            rows = min(rows, max(budget // columns, self.group_size))
            columns = min(columns, budget // rows)
        return rows, columns

    def _fitting(self, rows: int) -> int:
        """How many of the waiting prompts fit beside this many rows."""
        count = 0
        for prompt in self.waiting:
            rows += self.group_size
            if rows > self._capacity(len(self.prompts[prompt]))[0]:
                break
            count += 1
        return count

    def _joining(self, live: int) -> int:
        """How many prompts join now: none if places are few, since each pass over prompts has a cost of its own."""
        if not self.waiting or (live and not self.refills):
            return 0
        count = self._fitting(live)
        most = self._capacity(len(self.prompts[self.waiting[0]]))[0]
        few = count < len(self.waiting) and count * self.group_size < self.settings.drop_fraction * most
        return 0 if live and few else count

    def _join(self, count: int) -> Tensor:
        """Run waiting prompts once and put their groups behind the rows; return the logits [B, V] of these groups."""
        chosen = [self.waiting.popleft() for _ in range(count)]
        rows, self.room.columns = self._capacity(len(self.prompts[chosen[-1]]))
        rows = rows if self.refills and self.waiting else 0
        parts = self._parts(chosen)
        # All of the parts find room in the tensors of the first.
        self.room.rows = max(rows, len(self.rows) + count * self.group_size) if len(parts) > 1 else rows
        logits = torch.cat([self._join_together(part) for part in parts])
        self.room.rows = rows
        return logits

    def _parts(self, chosen: list[int]) -> list[list[int]]:
        """Prompts, of ascending length, that are run in one pass; all of them where rows cannot join others."""
        if not self.can_join:
            return [chosen]
        parts: list[list[int]] = [[]]
        for prompt in chosen:
            if parts[-1] and (len(parts[-1]) + 1) * len(self.prompts[prompt]) > self.settings.max_prefill_tokens:
                parts.append([])
            parts[-1].append(prompt)
        return parts

    def _join_together(self, chosen: list[int]) -> Tensor:
        """Run prompts in one pass, and put their groups behind the rows (see ``_join``)."""
        lengths = torch.tensor([len(self.prompts[prompt]) for prompt in chosen], device=self.policy.device)
        logits = self.policy.head(self._read(chosen))
        first = torch.tensor(chosen, device=lengths.device) * self.group_size
        slots = (first[:, None] + torch.arange(self.group_size, device=lengths.device)).flatten()
        self.rows = self.rows.append(Rows.begin(slots, lengths.repeat_interleave(self.group_size)))
        return logits.repeat_interleave(self.group_size, 0)

    def _read(self, chosen: list[int]) -> Tensor:
        """Run some prompts, and put what is kept of them behind the rows; return the hidden states behind them.

        One that is longer than ``max_prefill_tokens`` is run piece by piece, each on the cache of those before.
        """
        ids, lengths = pad_rows([self.prompts[prompt] for prompt in chosen], self.policy.pad_token_id, left=True)
        padded, width = int(lengths.min()) < ids.shape[1], ids.shape[1]
        ids, lengths = ids.to(self.policy.device), lengths.to(self.policy.device)
        mask = length_mask(lengths, width).flip(1)
        cache = self._new_cache(len(chosen))
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        most = max(width, 1) if not self.can_join or len(chosen) > 1 else self.settings.max_prefill_tokens
        for start in range(0, width, most):
            piece = slice(start, start + most)
            seen = mask[:, : piece.stop] if padded else None
            hidden = self._forward(cache, ids[:, piece], seen, positions[:, piece])
        self._place(cache, padded, width)
        return hidden

    def _place(self, cache: GrowingCache, padded: bool, width: int) -> None:
        """Put the rows of another cache, as wide as said, behind those of the batch, each for a whole group."""
        if len(self.rows):
            self.padded = self.padded or padded or width != self.width
            self.cache.add_rows(cache, self.group_size)
        else:
            self.padded, self.width = padded, width
            self.cache = cache
            self.cache.batch_repeat_interleave(self.group_size)
        self.width = max(self.width, width)

    def _new_cache(self, rows: int) -> GrowingCache:
        return GrowingCache(self.policy.lm.config, rows, self.room)

    # ------------------------------------------------------------- one token

    def _record(self, tokens: Tensor, log_probs: Tensor, ended: Tensor) -> None:
        # Written for all rows with masks, since picking the live ones would wait for the device. Rows that have ended
        # write padding behind their response, hence the room for one token more.
        out, rows = self.out, self.rows
        out.response_ids[rows.slots, rows.response_lengths] = tokens.where(rows.live, self.policy.pad_token_id)
        out.sampling_log_probs[rows.slots, rows.response_lengths] = log_probs.where(rows.live, 0.0)
        out.finished[rows.slots] |= ended
        rows.response_lengths = rows.response_lengths + rows.live
        out.response_lengths[rows.slots] = rows.response_lengths
        rows.live = rows.live & ~ended & (rows.response_lengths < self.sampling.max_response_tokens)

    def _step(self, tokens: Tensor) -> Tensor:
        """Feed the tokens [B] drawn last; return the logits [B, V] of the next ones."""
        lengths, mask = self.rows.feed(), None
        if self.padded:
            mask = torch.arange(self.width, -1, -1, device=tokens.device) < lengths[:, None]
            if self.mask_is_ready:
                mask = mask[:, None, None]
        self.width += 1
        return self.policy.head(self._forward(self.cache, tokens[:, None], mask, lengths[:, None] - 1))

    def _forward(self, cache: GrowingCache, ids: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        """[B, D] hidden states of the last place."""
        past = {self.cache_argument: cache}
        output = self.policy.decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **past)
        return output.last_hidden_state[:, -1]

    def _score(self, logits: Tensor, rows: Tensor) -> None:
        chosen = rows.nonzero().squeeze(-1)
        scores = reward_token_log_probs(logits.index_select(0, chosen), self.reward_token_ids)
        self.out.reward_token_log_probs.index_copy_(0, self.rows.slots.index_select(0, chosen), scores)

    # ------------------------------------------------- rows and columns that go

    def _keep(self, needed: Tensor, count: int) -> Tensor:
        """Drop all but the ``count`` rows that are needed; return which one each of those left was, [count].

        Rows from the end take the places of those dropped, so that few have to move.
        """
        rows = torch.arange(count, device=needed.device)
        rows[~needed[:count]] = count + needed[count:].nonzero().squeeze(-1)
        self.rows = self.rows.select(rows)
        if count:
            self._move(rows)
        return rows

    def _move(self, rows: Tensor) -> None:
        """Make row ``rows[i]`` of the cache row i, and drop the others."""
        self.cache.batch_select_indices(rows)
        self._cut(torch.ones_like(self.rows.live))

    def _cut(self, needed: Tensor) -> None:
        """Cut off the columns in which no needed row has a token."""
        if self.cache.only_attention:
            self.width = int(self.rows.cached_lengths.where(needed, 0).max())
            self.cache.cut(self.width)


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
