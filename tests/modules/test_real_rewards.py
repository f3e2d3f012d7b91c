"""Rewards that are real numbers, by hand: correct means above 0.5, and the loss and the advantages take the number."""

import math
from collections.abc import Callable

import pytest
import torch

from laser_lightning.data.problem import Problem
from laser_lightning.evaluation.metrics import EvaluationMetrics
from laser_lightning.objective.advantages import (
    AdvantageEstimator,
    BatchNormalized,
    GroupRelative,
    LeaveOneOut,
    SelfRewardMixing,
)
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.self_reward.head import Readings
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.self_reward.solutions import StepSolutions, Supervision
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.verifiers import Verification

REWARDS = torch.tensor([0.3, -0.5, 2.0, 0.5])


def log_probs_of(self_rewards: torch.Tensor) -> torch.Tensor:
    """[N, 1] log pi(z_c) that have these self-rewards: r_s = 0.1 * (l + 20), so l = 10 * r_s - 20."""
    return 10 * self_rewards[:, None] - 20


def test_loss_and_class_weights(step_solutions: Callable[..., StepSolutions]) -> None:
    # Correct is above 0.5: 2.0 alone. Weights 1/(2*3) for the incorrect ones and 1/(2*1) for the correct one.
    head = LastTokenSelfReward("<|reward|>", reference=-20.0)
    supervision = head.supervise(step_solutions(REWARDS))
    torch.testing.assert_close(supervision.weights, torch.tensor([1 / 6, 1 / 6, 1 / 2, 1 / 6]))
    # The target is the reward itself: errors 0.5 - 0.3, 0.5 + 0.5, 1 - 2, 0 - 0.5.
    loss = head.loss(Readings(log_probs_of(torch.tensor([0.5, 0.5, 1.0, 0.0]))), supervision)
    torch.testing.assert_close(loss, torch.tensor((0.04 + 1.0 + 0.25) / 6 + 1.0 / 2))


def test_the_loss_is_smallest_at_the_rewards() -> None:
    # Also outside of [0, 1]: self-rewards are not clamped in the loss.
    head = LastTokenSelfReward("<|reward|>", reference=-20.0)
    weights = torch.full((4,), 0.25)
    log_probs = log_probs_of(REWARDS).requires_grad_()
    loss = head.loss(Readings(log_probs), Supervision(REWARDS, weights))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert log_probs.grad is not None
    assert log_probs.grad.flatten().tolist() == pytest.approx([0.0] * 4, abs=1e-7)


NO_ROLLOUT: Rollout = None  # type: ignore[assignment]  # not looked at


def estimated(rewards: torch.Tensor, estimator: AdvantageEstimator) -> torch.Tensor:
    return estimator(rewards, NO_ROLLOUT, StepContext())


def test_group_relative_advantages() -> None:
    # Mean 0.575; squares of the distances: 0.075625, 1.155625, 2.030625, 0.005625, in all 3.2675; std = sqrt(that / 3).
    std = math.sqrt(3.2675 / 3)
    distances = torch.tensor([[-0.275, -1.075, 1.425, -0.075]])
    torch.testing.assert_close(estimated(REWARDS[None], GroupRelative(epsilon=0.0)), distances / std)
    torch.testing.assert_close(estimated(REWARDS[None], GroupRelative(divide_by_std=False)), distances)
    # Leave one out: (0.3 - 1.8 / 3 ...), each reward minus the mean of the other three; the sum is 2.3.
    expected = torch.tensor([[0.3 - 2.0 / 3, -0.5 - 2.8 / 3, 2.0 - 0.3 / 3, 0.5 - 1.8 / 3]])
    torch.testing.assert_close(estimated(REWARDS[None], LeaveOneOut()), expected)


@pytest.mark.parametrize("value", [0.3, -0.5, 2.0])
def test_equal_real_rewards_give_no_advantage(value: float) -> None:
    rewards = torch.full((1, 7), value)
    for estimator in (GroupRelative(), LeaveOneOut(), BatchNormalized(), BatchNormalized(baseline=True)):
        assert estimated(rewards, estimator).tolist() == [[0.0] * 7]


def test_mixing_normalises_both_so_their_scales_do_not_matter() -> None:
    # Rewards -1 and 3 and self-rewards 0 and 1: both have the advantages -1/sqrt(2) and 1/sqrt(2).
    rewards, scores, estimator = torch.tensor([[-1.0, 3.0]]), torch.tensor([[0.0, 1.0]]), GroupRelative(epsilon=0.0)
    advantages, is_mixed = SelfRewardMixing(tau=0.3)(
        rewards, scores, lambda values: estimated(values, estimator), NO_ROLLOUT, StepContext()
    )
    assert is_mixed.tolist() == [True]
    torch.testing.assert_close(advantages, torch.tensor([-1.0, 1.0]) / math.sqrt(2))


def round_of(rewards: torch.Tensor, self_rewards: torch.Tensor, answers: list[str]) -> Rollout:
    size = len(rewards)
    ids, ones = torch.zeros(size, 1, dtype=torch.long), torch.ones(size, dtype=torch.long)
    rollouts = Rollouts(ids[:1], ones[:1], ids, ones, ones.bool(), ids.float(), torch.zeros(size))
    verifications = [Verification(r, a) for r, a in zip(rewards.tolist(), answers, strict=True)]
    problems = [Problem("set", 0, "", "", [1], "")]
    return Rollout(problems, rollouts, [""] * size, verifications, rewards, None, self_rewards)


def test_metrics_split_at_one_half() -> None:
    # Correct: the third alone. Answers: a (0.3), b (-0.5), b (2.0), c (0.5); scores 0.6, 0.4, 0.9, 0.1.
    rollout = round_of(REWARDS, torch.tensor([0.6, 0.4, 0.9, 0.1]), ["a", "b", "b", "c"])
    assert rollout.has_signal.tolist() == [True]
    metrics = EvaluationMetrics(4, [])
    metrics.update(rollout, None)
    values = {name: float(value) for name, value in metrics.compute().items()}
    assert values["pass@1"] == 0.25
    assert values["pass@4"] == 1.0
    # b wins both votes (2 of 4; 1.3 of 2.0) and is as correct as the mean of its members: one of two.
    assert values["maj@4"] == values["weighted_maj@4"] == 0.5
    assert values["best_of@4"] == 1.0
    assert (values["self_verification/correct"], values["self_verification/incorrect"]) == (1, 3)
    # The correct one is accepted (0.9), and two of three incorrect ones are rejected: F1 = 2 * 2/3 / (1 + 2/3).
    assert values["self_verification/accuracy_on_correct"] == 1.0
    assert abs(values["self_verification/f1"] - 0.8) < 1e-6
    assert values["self_verification/auroc"] == 1.0
    # A bin each for 0.1, 0.4, 0.6 and 0.9, with 0, 0, 0 and 1 correct: (0.1 + 0.4 + 0.6 + 0.1) / 4.
    assert abs(values["self_verification/ece"] - 0.3) < 1e-6
