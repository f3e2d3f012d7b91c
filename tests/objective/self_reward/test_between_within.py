"""The two parts of a group's squared error: targets by hand, and gradients against the loss that they stand for."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning import (
    BetweenWithinTarget,
    EqualWeights,
    JudgingSettings,
    LastTokenSelfReward,
    Readings,
    StepSolutions,
    TwoTokenSelfReward,
    YesNoSelfReward,
)
from laser_lightning.errors import UserError
from laser_lightning.modules.judging import Judging
from laser_lightning.modules.offline import OfflineStage

MakeStep = Callable[..., StepSolutions]


def test_by_hand(step_solutions: MakeStep) -> None:
    # Errors -1/2, 1/4 and 1 with a mean of 1/4: wanted are 1/4 + 2 * (-3/4, 0, 3/4) = -5/4, 1/4 and 7/4.
    rewards, scores = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.25, 1.0, 0.0]])
    step = step_solutions(rewards, torch.tensor([[True, True, True, False]]), scores)
    assert BetweenWithinTarget(2.0).aim(step).tolist() == [[1.75, 0.0, -0.75, 0.0]]


def test_a_solution_whose_score_is_not_known(step_solutions: MakeStep) -> None:
    # As above with the last one finished: its 0 is no score, no mean counts it, and its target is its reward.
    rewards, scores = torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.25, 1.0, 0.0]])
    step = step_solutions(rewards, scores=scores, unread=torch.tensor([[False, False, False, True]]))
    assert BetweenWithinTarget(2.0).aim(step).tolist() == [[1.75, 0.0, -0.75, 1.0]]


def test_a_weight_of_one_is_the_reward(step_solutions: MakeStep) -> None:
    step = step_solutions(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), scores=torch.tensor([[0.25, 0.75], [0.5, 1.5]]))
    assert torch.equal(BetweenWithinTarget(1.0).aim(step), step.rewards)


def test_a_group_without_a_finished_solution(step_solutions: MakeStep) -> None:
    step = step_solutions(torch.tensor([[1.0, 0.0]]), torch.tensor([[False, False]]))
    assert BetweenWithinTarget().aim(step).tolist() == [[1.0, 0.0]]


def loss_of_parts(scores: Tensor, step: StepSolutions, within: float) -> Tensor:
    """The loss as it is meant, group by group."""
    loss = torch.zeros(())
    for of_group, rewards, finished in zip(scores, step.rewards, step.finished, strict=True):
        errors = (of_group - rewards)[finished]
        mean = errors.mean()
        loss = loss + len(errors) * mean**2 + within * (errors - mean).square().sum()
    return loss / step.finished.sum()


@pytest.mark.parametrize("within", [0.0, 0.5, 4.0])
def test_the_gradient_is_that_of_the_two_parts(within: float, step_solutions: MakeStep) -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs = -20 + 4 * torch.rand(12, 1, generator=generator)
    rewards = torch.randint(0, 2, (3, 4), generator=generator).float()
    finished = torch.tensor([[True] * 4, [True, False, True, True], [True] * 4])
    head = LastTokenSelfReward(
        "z", beta=0.25, reference=-20.0, weights=EqualWeights(), target=BetweenWithinTarget(within)
    )
    step = step_solutions(rewards, finished, head.score(Readings(log_probs)).where(finished.flatten(), 0.0))
    ours, theirs = (log_probs.clone().requires_grad_() for _ in range(2))
    head.loss(Readings(ours), head.supervise(step)).backward()
    loss_of_parts(head.score(Readings(theirs)).view(3, 4), step, within).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)
    assert ours.grad is not None
    assert ours.grad.any()


def test_what_it_does_not_go_with() -> None:
    target = BetweenWithinTarget()
    assert TwoTokenSelfReward("Y", "N", target=target).target is target
    with pytest.raises(UserError, match=r"target is BetweenWithinTarget.* the loss of YesNoSelfReward is another"):
        YesNoSelfReward("Y", "N", target=target)
    with pytest.raises(UserError, match=r"self_reward\.target\.within is -1"):
        BetweenWithinTarget(-1.0)
    head = LastTokenSelfReward("z", reference=-20.0, target=target)
    module: Any = SimpleNamespace(self_reward=head, group_size=4)
    with pytest.raises(UserError, match=r"BetweenWithinTarget.*update\.judging replays .* leave one of the two out"):
        Judging(JudgingSettings(), module)
    with pytest.raises(UserError, match=r"BetweenWithinTarget.*the offline stage has recorded ones"):
        OfflineStage(module, head, 1.0, None)
