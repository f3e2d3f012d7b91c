"""Weights of the self-rewarding loss that look at groups, by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning import (
    EqualWeights,
    GroupBalancedWeights,
    MixedGroupWeights,
    RepresentedGroupWeights,
    SelfRewardWeights,
    StepContext,
)
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.objective.self_reward.solutions import StepSolutions

REWARDS = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
FINISHED = torch.ones(5, 4, dtype=torch.bool)
FINISHED[2, 3] = False
FINISHED[4, 0] = False  # the only correct one


class Doubled(Ranks):
    """Another rank has the same solutions."""

    def sum(self, values: Tensor) -> Tensor:
        return 2 * values


def weighed(weights: SelfRewardWeights, make: Callable[..., StepSolutions], ranks: Ranks | None = None) -> Any:
    found = weights.weigh(make(REWARDS, FINISHED, context=StepContext(ranks=ranks or Ranks())))
    return found.tolist()


def test_groups_and_their_classes_weigh_the_same(step_solutions: Callable[..., StepSolutions]) -> None:
    # Two mixed groups: a quarter for each of their classes.
    expected = [[1 / 4, 1 / 12, 1 / 12, 1 / 12], [0] * 4, [1 / 8, 1 / 8, 1 / 4, 0], [0] * 4, [0] * 4]
    assert weighed(GroupBalancedWeights(), step_solutions) == [pytest.approx(row) for row in expected]
    halved = [[value / 2 for value in row] for row in expected]
    assert weighed(GroupBalancedWeights(), step_solutions, Doubled()) == [pytest.approx(row) for row in halved]


def test_other_groups_are_left_out_of_the_counts_too(step_solutions: Callable[..., StepSolutions]) -> None:
    # Three correct and four incorrect solutions are left.
    expected = [[1 / 6, 1 / 8, 1 / 8, 1 / 8], [0] * 4, [1 / 6, 1 / 6, 1 / 8, 0], [0] * 4, [0] * 4]
    assert weighed(MixedGroupWeights(), step_solutions) == [pytest.approx(row) for row in expected]
    equal = [[1 / 7] * 4, [0] * 4, [1 / 7, 1 / 7, 1 / 7, 0], [0] * 4, [0] * 4]
    assert weighed(MixedGroupWeights(EqualWeights()), step_solutions) == [pytest.approx(row) for row in equal]


def test_one_solution_stands_for_a_group_of_one_class(step_solutions: Callable[..., StepSolutions]) -> None:
    # 1 + 4 + 2 correct and 3 + 1 + 4 + 3 incorrect ones are finished; the first of the last group is not.
    right, wrong = 1 / 14, 1 / 22
    expected = [[right, wrong, wrong, wrong], [4 * right, 0, 0, 0], [right, right, wrong, 0], [4 * wrong, 0, 0, 0]]
    expected += [[0, 3 * wrong, 0, 0]]
    assert weighed(RepresentedGroupWeights(), step_solutions) == [pytest.approx(row) for row in expected]
    halved = [[value / 2 for value in row] for row in expected]
    assert weighed(RepresentedGroupWeights(), step_solutions, Doubled()) == [pytest.approx(row) for row in halved]


def test_nobody_stands_for_a_group_without_finished_solutions(step_solutions: Callable[..., StepSolutions]) -> None:
    solutions = step_solutions(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool))
    assert RepresentedGroupWeights(EqualWeights()).weigh(solutions).tolist() == [[0, 0]]


def test_no_group_with_both_kinds(step_solutions: Callable[..., StepSolutions]) -> None:
    solutions = step_solutions(torch.tensor([[1.0, 1], [0, 0]]))
    for weights in (GroupBalancedWeights(), MixedGroupWeights()):
        assert not weights.weigh(solutions).any()


class Counting(EqualWeights):
    """Counts the steps."""

    def __init__(self) -> None:
        self.steps = 0

    def learn(self, rollout: Any, context: StepContext) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


class Asking(EqualWeights):
    """Asks for everything."""

    needs_reference = needs_teacher = needs_entropy = needs_routers = True


@pytest.mark.parametrize("kind", [MixedGroupWeights, RepresentedGroupWeights])
def test_what_the_weights_within_ask_for(kind: Callable[..., SelfRewardWeights]) -> None:
    names = ("needs_reference", "needs_teacher", "needs_entropy", "needs_routers")
    assert [getattr(kind(Asking()), name) for name in names] == [True] * 4
    assert [getattr(kind(), name) for name in names] == [False] * 4


@pytest.mark.parametrize("kind", [MixedGroupWeights, RepresentedGroupWeights])
def test_the_weights_within_remember(
    step_solutions: Callable[..., StepSolutions], kind: Callable[[SelfRewardWeights], SelfRewardWeights]
) -> None:
    weights = kind(Counting())
    weights.learn(step_solutions(REWARDS).rollout, StepContext())
    again = kind(Counting())
    again.load_state_dict(weights.state_dict())
    assert again.state_dict() == {"steps": 1}
