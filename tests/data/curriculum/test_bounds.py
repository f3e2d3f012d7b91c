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


def test_shares_are_told_apart_as_finely_as_bounds_are_written() -> None:
    # 1/3 is more than 0.33333333, which float32 does not tell from it.
    third = torch.tensor([[1.0, 0.0, 0.0]])
    assert AccuracyBounds(high=1 / 3).contain(third).tolist() == [True]
    assert AccuracyBounds(high=0.33333333).contain(third).tolist() == [False]


def test_every_share_lies_within_bounds_of_itself() -> None:
    # 9 * (1 / 10) in float32, and 3 * (1 / 10) in float64, are more than 0.9 and 0.3: a device may divide so.
    for size in (3, 7, 10, 49):
        rewards = torch.ones(size + 1, size).tril(-1)  # row k has k right ones
        for count in range(1, size):
            inside = AccuracyBounds(count / size, count / size).contain(rewards)
            assert inside.nonzero().flatten().tolist() == [count]


@pytest.mark.parametrize(
    ("bounds", "size", "nearest"),
    [
        ((0.3, 0.4), 4, r"0.25 \(1 of 4\), 0.5 \(2 of 4\)"),
        ((0.8, 1.0), 4, r"0.75 \(3 of 4\)"),  # all right: there is no signal in it
        ((0.0, 0.1), 3, r"0.3333 \(1 of 3\)"),
    ],
)
def test_bounds_that_no_mixed_group_meets_are_refused(bounds: tuple[float, float], size: int, nearest: str) -> None:
    named = rf"\(from {bounds[0]} to {bounds[1]}\) contains no accuracy"
    with pytest.raises(UserError, match=rf"{named} .* model.group_size is {size}; the nearest: {nearest}\. Widen"):
        AccuracyBounds(*bounds).check(sampling_rounds=4, group_size=size)


@pytest.mark.parametrize(("bounds", "size"), [((0.3, 0.4), 3), ((0.25, 0.25), 4), ((0.0, 1.0), 2), ((0.3, 0.4), None)])
def test_bounds_that_some_group_meets_are_not(bounds: tuple[float, float], size: int | None) -> None:
    AccuracyBounds(*bounds).check(sampling_rounds=4, group_size=size)


def test_the_loosest_case_contains_all() -> None:
    assert AccuracyBounds().contain(REWARDS).all()
    assert not AccuracyBounds().bind
    assert AccuracyBounds(low=0.1).bind
    assert AccuracyBounds(high=0.9).bind


@pytest.mark.parametrize("bounds", [(-0.1, 1.0), (0.0, 1.1), (0.6, 0.4), (1.0, 1.0), (0.0, 0.0)])
def test_bounds_that_are_none_are_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"data.accuracy_bounds: low is"):
        AccuracyBounds(*bounds)
