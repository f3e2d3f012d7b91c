"""Which groups are dropped, by hand, and that a resumed run drops the same."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning import (
    NGRPO,
    AdvantageEstimator,
    BatchNormalized,
    EMABaseline,
    GroupRelative,
    LeaveOneOut,
    LitePPO,
    RewardShaper,
    SelfRewardMixing,
)
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.objective.advantages import AdvantageSettings
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.shaping.low_spread import DropLowSpread


def groups(*rewards: list[float]) -> Any:
    values = torch.tensor(rewards)
    return SimpleNamespace(
        rollouts=SimpleNamespace(group_size=values.shape[1]),
        problems=[Problem("train", number, "", "", [1], "") for number in range(len(values))],
        self_rewards=(values * 0 + torch.linspace(0, 1, values.shape[1])).flatten(),
        problem_of=lambda row: Problem("train", row, "", "", [1], ""),
        policy_rewards=values.flatten(),
        grouped=lambda flat: flat.view(len(values), -1),
    )


def dropped(shaper: DropLowSpread, step: Any) -> Any:
    found = shaper.dropped_groups(step, StepContext())
    assert found is not None
    return found.tolist()


class TwoRanks:
    """Stands for this process and one that had the groups of ``other``."""

    def __init__(self, other: Any) -> None:
        self.other = other

    def sum(self, row: Tensor) -> Tensor:
        spreads = self.other.grouped(self.other.policy_rewards).std(dim=1).double()
        return row + torch.stack((spreads.sum(), spreads.new_tensor(len(spreads))))


def test_groups_below_the_moving_average_are_dropped() -> None:
    shaper = DropLowSpread(beta=0.5, decay=0.75, first_steps=2)
    # Two rewards a apart have the sample standard deviation a / sqrt(2). Means over the groups, times sqrt(2):
    first, second, third = groups([0, 0.4], [0, 0.2]), groups([0, 0.1], [0.2, 0.3]), groups([0, 0.8], [0, 0.11])
    for step in (first, second):  # 0.3, then the mean of 0.3 and 0.1
        assert shaper.dropped_groups(step, StepContext()) is None
        shaper.learn(step, StepContext())
    assert shaper.state_dict()["average"] * 2**0.5 == pytest.approx(0.2)
    # Now 0.11 stays, which is above half of 0.2, and 0.09 does not. Rewards stay as other shapers made them.
    assert dropped(shaper, third) == [False, False]
    assert torch.equal(shaper(third.policy_rewards + 1, third, StepContext()), third.policy_rewards + 1)
    assert dropped(shaper, groups([0, 0.8], [0.5, 0.59])) == [False, True]
    shaper.learn(third, StepContext())  # 3/4 * 0.2 + 1/4 * (0.8 + 0.11) / 2 = 0.26375
    assert shaper.state_dict()["average"] * 2**0.5 == pytest.approx(0.26375)
    resumed = DropLowSpread(beta=0.5, decay=0.75, first_steps=2)
    resumed.load_state_dict(shaper.state_dict())
    assert resumed.state_dict() == shaper.state_dict() == {"steps": 3, "average": shaper.state_dict()["average"]}


class OfTokens(GroupRelative):
    """Says the same of each of three tokens."""

    def __call__(self, rewards: Tensor, rollout: Any, context: StepContext) -> Tensor:
        return super().__call__(rewards, rollout, context).view(-1, 1).expand(-1, 3)


ESTIMATORS = [
    GroupRelative(),
    LeaveOneOut(),
    BatchNormalized(),
    BatchNormalized(baseline=True),
    LitePPO(),
    EMABaseline(),
    NGRPO(max_reward=1.1),
    OfTokens(),
]


@pytest.mark.parametrize("mixing", [None, SelfRewardMixing(tau=0.5)])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def test_dropped_groups_have_no_advantages(estimator: AdvantageEstimator, mixing: SelfRewardMixing | None) -> None:
    # 0.1 apart is below half of the average, and 0.8 is not; a shaper behind it changes nothing of that.
    shaper, step = DropLowSpread(beta=0.5, first_steps=1), groups([0, 0.8], [0.5, 0.6])
    shaper.learn(groups([0, 0.4]), StepContext())
    shaping: list[RewardShaper] = [shaper, KeepsAndAdds()]
    found = AdvantageSettings(estimator, mixing, shaping).compute_advantages(step, StepContext(), mixes=True)
    plain = AdvantageSettings(estimator, mixing, shaping[1:]).compute_advantages(step, StepContext(), mixes=True)
    assert bool((plain.values != 0).all())
    assert torch.equal(found.values[:2], plain.values[:2])
    assert not found.values[2:].any()
    assert found.mixed_groups.tolist() == [mixing is not None, False]


class KeepsAndAdds(RewardShaper):
    """Adds to the first of two solutions."""

    def __call__(self, rewards: Tensor, rollout: Any, context: StepContext) -> Tensor:
        return rewards + torch.tensor([0.05, 0.0] * (len(rewards) // 2))


def test_the_average_is_over_all_ranks() -> None:
    one, other, both = groups([0, 0.4]), groups([0, 0.1], [0, 0.3]), groups([0, 0.4], [0, 0.1], [0, 0.3])
    shaper, whole = DropLowSpread(), DropLowSpread()
    shaper.learn(one, StepContext(ranks=TwoRanks(other)))  # type: ignore[arg-type]
    whole.learn(both, StepContext())
    assert shaper.state_dict()["average"] == pytest.approx(whole.state_dict()["average"], rel=1e-12)


@pytest.mark.parametrize("settings", [{"beta": -0.1}, {"decay": 1.1}, {"first_steps": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"DropLowSpread \(advantage\.shaping\)"):
        DropLowSpread(**settings)
