"""Records of scalars that add up over micro-batches and ranks."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.shapes import Shaped

MAXIMUM = {"maximum": True}
"""Metadata of a field of which the largest value counts, and not the sum; it is never negative."""


@dataclass(frozen=True)
class Sums:
    """Base of such records: every field is a tensor (a scalar or a row of them), another record, or None."""

    def _of(self, values: Iterable[Tensor]) -> Self:
        """A record of the same form with other tensors."""
        left = iter(values)  # a record within this one takes its own from the same ones
        held = [getattr(self, field.name) for field in fields(self)]
        return type(self)(
            *(own._of(left) if isinstance(own, Sums) else None if own is None else next(left) for own in held)
        )

    def values(self) -> list[Shaped[Tensor, "..."]]:
        """The tensors in order, those of records within it in their places."""
        held = [getattr(self, field.name) for field in fields(self)]
        return [one for own in held if own is not None for one in (own.values() if isinstance(own, Sums) else [own])]

    def _are_maxima(self) -> list[bool]:
        """Which of ``values`` are maxima."""
        held = [(getattr(self, field.name), "maximum" in field.metadata) for field in fields(self)]
        return [
            flag
            for own, is_maximum in held
            if own is not None
            for flag in (own._are_maxima() if isinstance(own, Sums) else [is_maximum])
        ]

    def __add__(self, other: Self) -> Self:
        pairs = zip(self.values(), other.values(), self._are_maxima(), strict=True)
        return self._of([torch.maximum(one, more) if largest else one + more for one, more, largest in pairs])

    def weighted(self, weight: float) -> Self:
        """Every field times a number; a maximum stays, or is left out by a weight of 0."""
        pairs = zip(self.values(), self._are_maxima(), strict=True)
        return self._of([value * (bool(weight) if is_maximum else weight) for value, is_maximum in pairs])

    def detach(self) -> Self:
        """The same without gradient."""
        return self._of([value.detach() for value in self.values()])

    def over(self, ranks: Ranks) -> Self:
        """Sums, or maxima, over all ranks, in double precision and on the CPU, from one collective operation."""
        values = self.values()
        every = ranks.stack(torch.cat([value.double().flatten() for value in values])).cpu()
        parts = every.split([value.numel() for value in values], dim=1)
        totals = [
            part.amax(dim=0) if is_maximum else part.sum(dim=0)
            for part, is_maximum in zip(parts, self._are_maxima(), strict=True)
        ]
        return self._of([total.view(value.shape) for total, value in zip(totals, values, strict=True)])
