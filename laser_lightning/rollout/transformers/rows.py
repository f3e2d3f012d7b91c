"""The rows of a running batch: whatever is kept of each of them, in one record."""

from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass
class Rows:
    """B rows of a running batch, in the order in which they stand in the cache.

    All rows share the columns of one cache and end in the same one, that of the token fed last, so that a step writes
    one column for all of them, wherever a row began. An example with letters for tokens, and ``.`` for a place in front
    of a row::

        column       0 1 2 3 4 5 6 7 8

        row 0        p p p p a a a          Prompts of 4 and 2 tokens: the shorter one is padded on the left. Both
        row 1        . . q q b b b          have been given 3 tokens of a response.

        row 0        p p p p a a a          Row 1 has ended, and is dropped. A prompt of 3 tokens enters behind the
        row 1        . . . . s s s          rows that are left, as if it had begun in column 4.

        row 0        p p p p a a a a a      Two steps later: each has written the next column.
        row 1        . . . . s s s c c

        row 0                s s s c c      Row 0 has ended. The last row takes its place, and columns 0 to 3, in which
                                            no row has a token any more, are cut off.

    Neither padding nor the place of a column changes what a row sees: the mask hides all but the row's last
    ``cached_lengths`` columns, and a key holds the position of its token within the row, which counts from the row's
    own first token. Places in front of a row hold any finite numbers, since NaN times a weight of 0 would be NaN.

    However many prompts follow each other, a round thus needs few more columns than its longest prompt and response
    together. When it reaches the last column of its tensor, what is not cut off moves to the left (``GrowingCache``),
    or the next column is the first one again (``RingCache``, for compiled steps).

    Attributes:
        slots: [B] int64, which solution of the round it is.
        prompt_lengths: [B] int64, tokens of its prompt.
        response_lengths: [B] int64, tokens drawn up to now.
        cached_lengths: [B] int64, tokens in the cache; a token that was just drawn is not there yet.
        live: [B] bool, whether it is still being sampled. Others wait for their score, or to be dropped.
    """

    slots: Tensor
    prompt_lengths: Tensor
    response_lengths: Tensor
    cached_lengths: Tensor
    live: Tensor

    @classmethod
    def begin(cls, slots: Tensor, prompt_lengths: Tensor) -> Self:
        """Rows of which nothing but the prompts [B] is in the cache."""
        return cls(
            slots=slots,
            prompt_lengths=prompt_lengths,
            response_lengths=torch.zeros_like(slots),
            cached_lengths=prompt_lengths,
            live=torch.ones_like(slots, dtype=torch.bool),
        )

    def __len__(self) -> int:
        """How many rows there are, B."""
        return len(self.slots)

    def select(self, rows: Tensor) -> Self:
        """Make row ``rows[i]`` row i, and drop the others.

        Args:
            rows: [B'] int64.
        """
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def append(self, other: Self) -> Self:
        """Put other rows behind these."""
        return type(self)(*(torch.cat((getattr(self, f.name), getattr(other, f.name))) for f in fields(self)))

    def feed(self) -> Tensor:
        """Count the token drawn last as one in the cache; return ``cached_lengths``.

        Rows that have ended stay as long as they were.
        """
        self.cached_lengths = self.prompt_lengths + self.response_lengths
        return self.cached_lengths
