"""Decoding with compiled steps, whose shapes stay the same from token to token."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Cache, PreTrainedModel

from laser_lightning.errors import UserError
from laser_lightning.rollout.transformers.cache import GrowingCache, cache_argument
from laser_lightning.rollout.transformers.decoding import Decoding
from laser_lightning.rollout.transformers.grouped_attention import grouped_attention
from laser_lightning.rollout.transformers.ring_cache import RingCache, RingLayer

LEAST_ROWS = 8
COLUMN_STEP = 128
OLDEST_TORCH = "2.13"
CAN_COMPILE = torch.__version__ >= OLDEST_TORCH  # torch compares versions, not texts
"""Compiled steps were tried on no older torch; 2.9 hands the cache to its compiler in another way."""

MOST_GRAPHS = 64  # 8 numbers of rows up to 1024, for a few numbers of columns; torch's own limit is 8 in all


class CompiledSteps:
    """A compiled step of decoding with its cache, both kept from round to round: a captured graph knows its memory.

    Weights are arguments of the graphs, which therefore follow them. The attributes are None before the first step.
    """

    def __init__(self) -> None:
        self.ring: RingCache | None = None
        self._cache_argument = ""
        self._compiled: Callable[[PreTrainedModel, Cache, Tensor, Tensor, str], Tensor] | None = None

    def reserve(self, like: GrowingCache, rows: int, columns: int) -> RingCache:
        """An empty ring of this many rows, or more, and columns, for the model of ``like``."""
        if self.ring is None or not self.ring.fits(like, rows, columns):
            self.ring = None  # so that there are never two
            self.ring = RingCache(like, rows, columns)
        self.ring.clear()
        return self.ring

    def step(self, decoder: PreTrainedModel, ring: RingCache, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Feed one token to each of the first rows.

        Args:
            decoder: of a transformers model.
            ring: the keys and values of the tokens before.
            tokens: [B] int64.
            lengths: [B] int64, tokens of each row, these included; at least 1.

        Returns:
            [B, D] hidden states, which the next step may overwrite.
        """
        if self._compiled is None:
            mode = "reduce-overhead" if tokens.device.type == "cuda" else None
            self._cache_argument = cache_argument(decoder)
            self._compiled = torch.compile(_step, fullgraph=True, dynamic=False, mode=mode)
        ring.advance()
        torch.compiler.cudagraph_mark_step_begin()
        with grouped_attention(decoder):
            return self._compiled(decoder, ring.part(len(tokens)), tokens, lengths, self._cache_argument)


def _step(decoder: PreTrainedModel, cache: Cache, tokens: Tensor, lengths: Tensor, cache_argument: str) -> Tensor:
    layer = cast(RingLayer, cache.layers[0])
    columns = layer.max_cache_len
    age = (layer.column - torch.arange(columns, device=tokens.device)) % columns  # 0 for the token that is fed now
    mask = (age < lengths[:, None])[:, None, None]
    output = decoder(
        input_ids=tokens[:, None],
        attention_mask=mask,
        position_ids=lengths[:, None] - 1,
        use_cache=True,
        **{cache_argument: cache},
    )
    return output.last_hidden_state[:, -1]


def padded_rows(rows: int) -> int:
    """The next power of two, and at least 8: numbers of rows that steps are compiled for."""
    return max(LEAST_ROWS, 1 << (rows - 1).bit_length())


@dataclass(eq=False)
class CompiledDecoding(Decoding):
    """Decode one round with compiled steps (see ``Decoding``; prompts are run as there).

    A step runs over all columns of the cache, and over a power of two of rows, of which those behind the batch are
    padding. A graph is thus compiled for each such number of rows and not for each token.

    Args:
        steps: the compiled step, the same in each round.

    Raises:
        UserError: torch is too old, or the model has windows, states other than keys and values, or another attention
            than ``sdpa``.
    """

    steps: CompiledSteps

    def __post_init__(self) -> None:
        if not CAN_COMPILE:
            raise UserError(
                f"engine.compile needs torch {OLDEST_TORCH} or later, and this is {torch.__version__}: set "
                "engine.compile to false."
            )
        self.ring: RingCache | None = None
        super().__post_init__()
        if not self.mask_is_ready:
            raise UserError(
                "engine.compile works for models of transformers whose layers all attend to every token, with "
                f"policy.attention sdpa, and this {type(self.policy.lm).__name__} is not one of them: set "
                "engine.compile to false."
            )

    def run(self) -> None:
        """Decode until every response has ended or reached the length limit."""
        with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS):
            super().run()

    @cached_property
    def _shape(self) -> tuple[int, int]:
        longest = max(len(prompt) for prompt in self.prompts) + self.sampling.max_response_tokens
        columns = -(-longest // COLUMN_STEP) * COLUMN_STEP
        if self.steps.ring is not None:  # fewer columns than before would be other graphs
            columns = max(columns, self.steps.ring.columns)
        rows = min(self.settings.max_batch_size, padded_rows(len(self.prompts) * self.group_size))
        if (budget := self.settings.max_cached_tokens) is not None:
            rows = min(rows, max(budget // columns, self.group_size))
            columns = min(columns, budget // rows)
        return rows, columns

    def _capacity(self, prompt_length: int) -> tuple[int, int]:
        """Most rows, and columns, of any batch of the round."""
        return self._shape

    def _place(self, cache: GrowingCache, padded: bool, width: int) -> None:
        if self.ring is None:
            self.ring = self.steps.reserve(cache, *self._shape)
        self.ring.add(cache, len(self.rows), self.group_size)

    def _step(self, tokens: Tensor) -> Tensor:
        assert self.ring is not None
        lengths, rows = self.rows.feed(), len(tokens)
        padding = (0, min(padded_rows(rows), self._shape[0]) - rows)
        # A padding row attends to its own token alone: with none at all its states would be NaN, and stay in the cache.
        hidden = self.steps.step(
            self.policy.decoder,
            self.ring,
            functional.pad(tokens, padding, value=self.policy.pad_token_id),
            functional.pad(lengths, padding, value=1),
        )
        return self.policy.head(hidden[:rows])

    def _move(self, rows: Tensor) -> None:
        assert self.ring is not None
        self.ring.move(rows)

    def _cut(self, needed: Tensor) -> None:
        """Nothing to do: the columns are a ring."""
