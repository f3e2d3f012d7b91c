"""Raw importance ratios, worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.objective.losses.ratios import RatioSums

RATIOS = torch.tensor([[0.25, 1.5, 4.0], [1.0, 0.75, math.nan]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


def sums_of(rows: slice) -> RatioSums:
    return RatioSums.between(RATIOS[rows].log(), torch.zeros(2, 3)[rows], MASK[rows])


def test_values_by_hand() -> None:
    # The sum 7.5 of 5, squares 0.0625 + 2.25 + 16 + 1 + 0.5625 = 19.875: 7.5^2 / 19.875 / 5; 0.25 and 4 are outside.
    expected = {"ratio_mean": 1.5, "ratio_max": 4.0, "ratio_effective_share": 0.566038, "ratio_outside": 0.4}
    assert sums_of(slice(None)).values_by_name() == pytest.approx(expected, abs=1e-6)


class Twice(Ranks):
    """Two ranks with the same values."""

    def sum(self, values: Tensor) -> Tensor:
        return values * 2

    def stack(self, values: Tensor) -> Tensor:
        return torch.stack((values, values))


def test_micro_batches_and_ranks_add_up_and_the_largest_stays() -> None:
    parts = sums_of(slice(0, 1)) + sums_of(slice(1, 2))
    assert parts.values_by_name() == pytest.approx(sums_of(slice(None)).values_by_name())
    twice = parts.over(Twice())
    assert (twice.tokens.item(), twice.largest.item()) == (10, pytest.approx(4.0))
    assert (parts + parts.weighted(0.0)).values_by_name() == parts.values_by_name()
    halves = parts.weighted(0.5)  # of two ranks that compute the same micro-batch
    assert (halves + halves).values_by_name() == parts.values_by_name()


def test_what_would_overflow_stays_finite() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    values = RatioSums.between(torch.tensor([[0.0, 0.0]]), torch.tensor([[-1e4, 0.0]]), mask).values_by_name()
    assert all(math.isfinite(value) for value in values.values())
    assert values["ratio_effective_share"] == pytest.approx(0.5)


def test_no_tokens_have_no_values() -> None:
    assert RatioSums.between(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1).bool()).values_by_name() == {}
