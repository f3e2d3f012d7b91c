"""Which groups are dropped, by hand, and that a resumed run drops the same."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.shaping.low_spread import DropLowSpread


def groups(*rewards: list[float]) -> Any:
    values = torch.tensor(rewards)
    return SimpleNamespace(
        rollouts=SimpleNamespace(group_size=values.shape[1]),
        policy_rewards=values.flatten(),
        grouped=lambda flat: flat.view(len(values), -1),
    )


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
        assert torch.equal(shaper(step.policy_rewards, step, StepContext()), step.policy_rewards)
        shaper.learn(step, StepContext())
    assert shaper.state_dict()["average"] * 2**0.5 == pytest.approx(0.2)
    # Now 0.11 stays, which is above half of 0.2, and 0.09 does not. What other shapers made of the rewards does not
    # count.
    assert torch.equal(shaper(third.policy_rewards + 1, third, StepContext()), third.policy_rewards + 1)
    low = groups([0, 0.8], [0.5, 0.59])
    assert shaper(low.policy_rewards, low, StepContext()).tolist() == pytest.approx([0, 0.8, 0, 0])
    shaper.learn(third, StepContext())  # 3/4 * 0.2 + 1/4 * (0.8 + 0.11) / 2 = 0.26375
    assert shaper.state_dict()["average"] * 2**0.5 == pytest.approx(0.26375)
    resumed = DropLowSpread(beta=0.5, decay=0.75, first_steps=2)
    resumed.load_state_dict(shaper.state_dict())
    assert resumed.state_dict() == shaper.state_dict() == {"steps": 3, "average": shaper.state_dict()["average"]}


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
