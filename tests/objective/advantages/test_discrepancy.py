"""Advantages that weigh more where confidence and outcome disagree, by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning import DiscrepancyWeighting, GroupRelative, SelfRewardMixing, StepContext, StepSolutions
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.objective.advantages.mixing import AdvantageMixing

REWARDS = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0]])
SCORES = torch.tensor([[1.0, 0, 0.5, 7.0], [0.25, 0.75, 0.75, -2.0]])
# Distances 0, 0, 1/2, 1 and 3/4, 1/4, 3/4, 0, whose means are 3/8 and 7/16; over both 13/32.
OF_GROUPS = [[-3 / 8, -3 / 8, 1 / 8, 5 / 8], [5 / 16, -3 / 16, 5 / 16, -7 / 16]]

MakeStep = Callable[..., StepSolutions]


def weights(step: StepSolutions, ranks: Ranks | None = None, **options: Any) -> list[list[float]]:
    context = StepContext(ranks=ranks or Ranks())
    found: list[list[float]] = DiscrepancyWeighting(**options).weigh(step.self_rewards, step.rollout, context).tolist()
    return found


def close(values: list[list[float]]) -> list[Any]:
    return [pytest.approx(row) for row in values]


def test_weights_by_hand(step_solutions: MakeStep) -> None:
    step = step_solutions(REWARDS, scores=SCORES)
    assert weights(step) == close([[1 + d / 4 for d in row] for row in OF_GROUPS])
    # Bounds at 0.75 and 1.25: 1 - 3/8, 1 - 3/16, 1 - 7/16 and 1 + 5/8, 1 + 1/8, 1 + 5/16.
    bounded = [[0.75, 0.75, 1.125, 1.25], [1.25, 0.8125, 1.25, 0.75]]
    assert weights(step, kappa=1.0, low=0.75, high=1.25) == close(bounded)


def test_over_the_round(step_solutions: MakeStep) -> None:
    shifts = (3 / 8 - 13 / 32, 7 / 16 - 13 / 32)
    expected = [[1 + (d + shift) / 4 for d in row] for row, shift in zip(OF_GROUPS, shifts, strict=True)]
    assert weights(step_solutions(REWARDS, scores=SCORES), mean_over="round") == close(expected)


class WithAnother(Ranks):
    """A second rank has a group of four whose distances are 1/4 each."""

    def sum(self, values: Tensor) -> Tensor:
        assert values.shape == (2, 1)
        return values + torch.tensor([[1.0], [4.0]], dtype=torch.float64)


def test_the_round_is_that_of_all_ranks(step_solutions: MakeStep) -> None:
    # 13/4 + 1 over twelve solutions: a mean of 17/48.
    found = weights(step_solutions(REWARDS, scores=SCORES), WithAnother(), mean_over="round")
    assert found[0] == pytest.approx([1 + (d - 17 / 48) / 4 for d in (0, 0, 1 / 2, 1)])


def test_a_truncated_solution_has_no_confidence(step_solutions: MakeStep) -> None:
    finished = torch.tensor([[True, True, False, True], [False] * 4])
    # Distances 0, 0 and 1, with a mean of 1/3.
    expected = [[1 - 1 / 12, 1 - 1 / 12, 1.0, 1 + 1 / 6], [1.0] * 4]
    assert weights(step_solutions(REWARDS, finished, SCORES)) == close(expected)


def test_nor_has_one_whose_score_is_not_known(step_solutions: MakeStep) -> None:
    unread = torch.tensor([[False, False, True, False], [True] * 4])
    expected = [[1 - 1 / 12, 1 - 1 / 12, 1.0, 1 + 1 / 6], [1.0] * 4]
    assert weights(step_solutions(REWARDS, scores=SCORES, unread=unread)) == close(expected)


def mixed(mixing: AdvantageMixing, step: StepSolutions, of_tokens: bool = False) -> Any:
    def estimate(values: Tensor) -> Tensor:
        found = GroupRelative()(values, step.rollout, StepContext())
        return found.view(-1, 1).expand(-1, 3) if of_tokens else found

    return mixing(step.rewards, step.self_rewards, estimate, step.rollout, StepContext())


@pytest.mark.parametrize("of_tokens", [False, True])
@pytest.mark.parametrize("tau", [0.0, 0.25])
def test_advantages_are_multiplied(tau: float, of_tokens: bool, step_solutions: MakeStep) -> None:
    step = step_solutions(REWARDS, scores=SCORES)
    inner = SelfRewardMixing(tau, min_std=0.0)
    found, plain = mixed(DiscrepancyWeighting(mixing=inner), step, of_tokens), mixed(inner, step, of_tokens)
    factors = torch.tensor(weights(step)).flatten()
    torch.testing.assert_close(found.values, plain.values * (factors[:, None] if of_tokens else factors))
    assert found.mixed_groups.tolist() == [True, True]


def test_groups_without_an_advantage_are_not_mixed(step_solutions: MakeStep) -> None:
    step = step_solutions(torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]]), scores=SCORES)
    assert mixed(DiscrepancyWeighting(), step).mixed_groups.tolist() == [False, True]


class Remembering(SelfRewardMixing):
    """Counts the steps, and asks for the reference."""

    needs_reference = True
    steps = 0

    def learn(self, *_: Any) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def test_the_mixing_within_asks_and_remembers(step_solutions: MakeStep) -> None:
    weighting, again = DiscrepancyWeighting(mixing=Remembering()), DiscrepancyWeighting(mixing=Remembering())
    weighting.learn(step_solutions(REWARDS).rollout, StepContext())
    again.load_state_dict(weighting.state_dict())
    assert again.state_dict() == {"steps": 1}
    assert again.needs_reference
    assert not DiscrepancyWeighting().needs_reference


@pytest.mark.parametrize(
    ("options", "named"),
    [({"kappa": -1.0}, "kappa"), ({"low": 1.5}, "low"), ({"high": 0.9}, "low"), ({"low": -1}, "low")],
)
def test_what_is_refused(options: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=rf"advantage\.mixing\.{named} is"):
        DiscrepancyWeighting(**options)  # type: ignore[arg-type]
