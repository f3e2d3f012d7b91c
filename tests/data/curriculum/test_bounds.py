"""Groups by their accuracy."""

import pytest
import torch

from laser_lightning.data import AccuracyBounds
from laser_lightning.errors import UserError

# 0, 1, 2, 3, 4 of 4 correct; partial credit above one half is correct.
REWARDS = torch.tensor([[0.0, 0.5, 0, -1], [1, 0, 0, 0], [1, 0.75, 0, 0], [1, 1, 1, 0], [1, 1, 1, 2]])


def test_bounds_belong_to_them() -> None:
    assert AccuracyBounds(0.25, 0.75).contain(REWARDS).tolist() == [False, True, True, True, False]
    assert AccuracyBounds(0.3, 0.74).contain(REWARDS).tolist() == [False, False, True, False, False]


def test_the_loosest_case_contains_all() -> None:
    assert AccuracyBounds().contain(REWARDS).all()
    assert not AccuracyBounds().bind
    assert AccuracyBounds(low=0.1).bind
    assert AccuracyBounds(high=0.9).bind


@pytest.mark.parametrize("bounds", [(-0.1, 1.0), (0.0, 1.1), (0.6, 0.4), (1.0, 1.0), (0.0, 0.0)])
def test_bounds_that_are_none_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"data.accuracy_bounds: low is"):
        AccuracyBounds(*bounds)
