"""A group and a virtual best solution, by hand."""

import pytest
import torch
from torch import Tensor

from laser_lightning import (
    NGRPO,
    CosineReward,
    FormatLengthReward,
    FormatReward,
    FunctionShaper,
    KimiLengthReward,
    OverlongPenalty,
    RepetitionPenalty,
    RewardShaper,
    StepContext,
)
from laser_lightning.errors import UserError
from laser_lightning.objective.advantages import AdvantageSettings
from laser_lightning.objective.advantages.xrpo import NoveltySharpening
from laser_lightning.objective.shaping import DropLowSpread
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


def test_rewards_that_rounding_put_beside_the_highest_are_the_highest() -> None:
    # 1 + 0.1 + 0.1 in float32 is 1.2000000477, in Python 1.2 is 1.2: one unit in the last place apart.
    above = torch.tensor([[1.2]]).nextafter(torch.tensor(2.0)).expand(1, 4)
    below = torch.tensor([[1.2]]).nextafter(torch.tensor(0.0)).expand(1, 4)
    assert not advantages(above, max_reward=1.2).any()
    assert not advantages(below, max_reward=1.2).any()


FORM = FormatReward("x", reward=0.1, penalty=-0.25)  # a negative penalty is a reward where there is no form


def one(group: object) -> list[float]:
    return [1.0]


@pytest.mark.parametrize(
    ("shaping", "highest"),
    [
        ([KimiLengthReward(0.2, after_steps=50)], "1.1"),
        ([FormatReward("x", reward=0.1)], "1.1"),
        ([FORM], "1.25"),
        ([FormatReward("x", reward=0.1), KimiLengthReward(0.2)], "1.2"),
        ([FormatLengthReward()], "2"),
        ([FunctionShaper(one), FormatLengthReward()], "2"),
        ([CosineReward(correct_short=0.5, wrong_long=1.5), OverlongPenalty()], "1.5"),
        ([RepetitionPenalty(), DropLowSpread(), KimiLengthReward(0.2)], "1.1"),
    ],
)
def test_shapers_that_lift_rewards_above_the_highest_are_refused(shaping: list[RewardShaper], highest: str) -> None:
    kind = type(shaping[-1]).__name__
    for estimator in (NGRPO(), NoveltySharpening(estimator=NGRPO())):
        with pytest.raises(
            UserError,
            match=rf"max_reward is 1, and with advantage\.shaping \(.*{kind}\) a reward can be {highest}: "
            rf"set advantage\.estimator\.max_reward to {highest}\.$",
        ):
            AdvantageSettings(estimator, shaping=shaping)
    AdvantageSettings(NGRPO(max_reward=float(highest)), shaping=shaping)
    AdvantageSettings(shaping=shaping)


@pytest.mark.parametrize(
    ("max_reward", "shaping"),
    [
        (1.0, [OverlongPenalty(), RepetitionPenalty(), CosineReward(), DropLowSpread()]),
        (1.0, [FormatReward("x", reward=0.0, penalty=0.5)]),
        (1.0, [KimiLengthReward(), FunctionShaper(one), FormatReward("x")]),  # nobody knows what a function returns
        (0.5, [KimiLengthReward(0.1)]),  # nor how high the rewards of such a verifier are
    ],
)
def test_others_are_not(max_reward: float, shaping: list[RewardShaper]) -> None:
    AdvantageSettings(NGRPO(max_reward), shaping=shaping)
