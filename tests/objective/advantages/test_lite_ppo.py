"""Distances from the group's mean, in units of the spread of all rewards, by hand."""

import pytest
import torch
from torch import Tensor

from laser_lightning import BatchNormalized, LitePPO, StepContext
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.records.rollout import Rollout

NO_ROLLOUT: Rollout = None  # type: ignore[assignment]  # not looked at
REWARDS = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]])


class Doubled(Ranks):
    """Another rank has the same rewards."""

    def sum(self, values: Tensor) -> Tensor:
        return 2 * values


def advantages(rewards: Tensor, ranks: Ranks | None = None, epsilon: float = 0.0) -> Tensor:
    return LitePPO(epsilon)(rewards, NO_ROLLOUT, StepContext(ranks=ranks or Ranks()))


def rows(near: float, far: float) -> Tensor:
    return torch.tensor([[far, -near, -near, -near], [near, near, near, -far]])


def test_by_hand() -> None:
    # Four of eight are right: mean 1/2, squared deviations 8 * 1/4 = 2, variance 2/7, std 0.534522.
    # 3/4 / 0.534522 = 1.403122, 1/4 / 0.534522 = 0.467707.
    torch.testing.assert_close(advantages(REWARDS), rows(0.467707, 1.403122), rtol=0, atol=1e-6)
    # With 0.534522 + 1/2 below the line: 3/4 / 1.034522 = 0.724973.
    assert advantages(REWARDS, epsilon=0.5)[0, 0].item() == pytest.approx(0.724973, abs=1e-6)


def test_it_is_not_the_spread_of_the_distances() -> None:
    centred = BatchNormalized(baseline=True, epsilon=0.0)(REWARDS, NO_ROLLOUT, StepContext())
    assert (centred.abs() > advantages(REWARDS).abs()).all()


def test_the_spread_is_that_of_all_ranks() -> None:
    # Eight of sixteen: squared deviations 4, variance 4/15, std 0.516398: 1.452369 and 0.484123.
    torch.testing.assert_close(advantages(REWARDS, Doubled()), rows(0.484123, 1.452369), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -7.3])
def test_a_unanimous_group_has_exactly_none(value: float) -> None:
    assert not advantages(torch.full((3, 7), value)).any()
    assert not advantages(torch.tensor([[value] * 3, [value, 1.0, value]]))[0].any()


def test_a_negative_epsilon_is_refused() -> None:
    with pytest.raises(UserError, match=r"advantage\.estimator\.epsilon is -1"):
        LitePPO(epsilon=-1.0)
