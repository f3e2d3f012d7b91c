"""A group and a virtual best solution, by hand."""

import pytest
import torch
from torch import Tensor

from laser_lightning import NGRPO, StepContext
from laser_lightning.errors import UserError
from laser_lightning.records.rollout import Rollout

NO_ROLLOUT: Rollout = None  # type: ignore[assignment]  # not looked at


def advantages(rewards: Tensor, **options: float) -> Tensor:
    return NGRPO(**{"epsilon": 0.0, **options})(rewards, NO_ROLLOUT, StepContext())


def test_a_mixed_group() -> None:
    # 1, 0, 0, 0 and the virtual 1: mean 2/5, squared deviations 2 * 9/25 + 3 * 4/25 = 6/5, variance 3/10.
    # Advantages 3/5 / sqrt(3/10) and -2/5 / sqrt(3/10).
    expected = torch.tensor([[1.095445] + [-0.730297] * 3])
    torch.testing.assert_close(advantages(torch.tensor([[1.0, 0, 0, 0]])), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("group_size", "expected"), [(8, -1 / 3), (3, -1 / 2), (1, -1 / 2**0.5)])
def test_a_group_that_is_all_wrong(group_size: int, expected: float) -> None:
    # Mean 1/(G + 1), squared deviations G/(G + 1), variance 1/(G + 1).
    assert advantages(torch.zeros(2, group_size)).flatten().tolist() == pytest.approx([expected] * (2 * group_size))


@pytest.mark.parametrize("best", [1.0, 0.1, 1 / 3])
def test_a_group_that_is_all_right_has_exactly_none(best: float) -> None:
    assert not advantages(torch.full((3, 7), best), max_reward=best).any()


def test_epsilon_is_added_to_the_standard_deviation() -> None:
    assert advantages(torch.zeros(1, 8), epsilon=1 / 3)[0, 0].item() == pytest.approx(-1 / 6)


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match=r"A reward is 2, and advantage\.estimator\.max_reward, .* is 1: raise it"):
        advantages(torch.tensor([[0.0, 2.0]]))
    with pytest.raises(UserError, match=r"advantage\.estimator\.epsilon is -1"):
        NGRPO(epsilon=-1.0)
