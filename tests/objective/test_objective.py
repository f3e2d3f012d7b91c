"""The objective's terms by hand, and the settings of the update."""

import math
from typing import Any

import pytest
import torch

from laser_lightning.errors import UserError
from laser_lightning.losses import ClippedPolicyLoss, KLEstimate
from laser_lightning.objective.objective import Objective
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import Rollouts, micro_batches


def by_hand_objective(**fields: Any) -> Objective:
    reward = LastTokenSelfReward("<|reward|>", beta=0.5, **({"loss_weight": 0.5, "reference": -4.0} | fields))
    return Objective(ClippedPolicyLoss(), reward, UpdateSettings(kl_coef=0.1, kl=KLEstimate("k2"), entropy_coef=0.01))


def two_solutions() -> tuple[Rollouts, PolicyOutputs]:
    """Solutions of 2 tokens and 1 token; the second one is truncated."""
    rollouts = Rollouts(
        prompt_ids=torch.tensor([[5]]),
        prompt_lengths=torch.tensor([1]),
        response_ids=torch.tensor([[6, 1], [7, 0]]),
        response_lengths=torch.tensor([2, 1]),
        finished=torch.tensor([True, False]),
        sampling_log_probs=torch.zeros(2, 2),
        reward_token_log_probs=torch.tensor([[-3.0], [torch.nan]]),
    )
    log_probs = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]], requires_grad=True)
    entropy = torch.tensor([[0.5, 1.0], [1.5, 99.0]], requires_grad=True)
    return rollouts, PolicyOutputs(log_probs, entropy, torch.tensor([[-3.0], [torch.nan]], requires_grad=True))


def test_all_terms_by_hand() -> None:
    rollouts, outputs = two_solutions()
    (batch,) = micro_batches(rollouts, torch.arange(2), 100, 0)
    old = outputs.log_probs.detach() - torch.tensor([[math.log(1.5), 0.0], [math.log(0.5), 5.0]])
    targets = Targets(
        advantages=torch.tensor([2.0, -1.0]),
        rewards=torch.tensor([1.0, 0.0]),
        policy_weights=torch.tensor([1 / 3, 1 / 3]),
        self_reward_weights=torch.tensor([1.0, 0.0]),
        self_reward_targets=torch.tensor([1.0, 0.0]),
        old_log_probs=old,
        reference_log_probs=torch.tensor([[-1.0, -4.0], [0.0, 77.0]]),
    )
    terms = by_hand_objective()(outputs, batch, targets)
    # Ratios 1.5, 1; 0.5 with advantages 2, 2; -1. Losses -min(3, 2.4) = -2.4; -2; -min(-0.5, -0.8) = 0.8: -3.6 / 3.
    assert terms.policy_loss.item() == pytest.approx(-1.2)
    assert terms.clip_fraction.item() == pytest.approx(2 / 3)
    # Score 0.5 * (-3 + 4) = 0.5 against a reward of 1.
    assert terms.self_reward_loss.item() == pytest.approx(0.25)
    # k2: differences 0, -2, 3: (0 + 2 + 4.5) / 3
    assert terms.kl.item() == pytest.approx(6.5 / 3)
    assert terms.entropy.item() == pytest.approx(1.0)
    # -1.2 + 0.5 * 0.25 + 0.1 * 6.5 / 3 - 0.01 * 1
    assert terms.loss.item() == pytest.approx(-0.868333, abs=1e-6)
    terms.loss.backward()
    assert outputs.reward_token_log_probs.grad is not None
    # 0.5 (alpha) * 2 * (0.5 - 1) * 0.5 (beta); the truncated solution's NaN stays out.
    assert outputs.reward_token_log_probs.grad.flatten().tolist() == [pytest.approx(-0.25), 0.0]
    assert outputs.log_probs.grad is not None
    # Token 1 is clipped, d/dl of its KL is -(ref - l) = 0; token 2: (-2 + 0.1 * 2) / 3; token 3 is clipped, so only
    # its KL: 0.1 * -3 / 3; padding: nothing.
    expected = torch.tensor([[0.0, -0.6], [-0.1, 0.0]])
    torch.testing.assert_close(outputs.log_probs.grad, expected)
    assert outputs.entropy.grad is not None
    torch.testing.assert_close(outputs.entropy.grad, torch.tensor([[-0.01, -0.01], [-0.01, 0.0]]) / 3)


def plain_targets() -> Targets:
    rewards = torch.tensor([1.0, 0.0])
    return Targets(torch.tensor([2.0, -1.0]), rewards, torch.ones(2), torch.tensor([1.0, 0.0]), rewards)


def test_terms_other_than_the_loss_carry_no_gradient() -> None:
    rollouts, outputs = two_solutions()
    (batch,) = micro_batches(rollouts, torch.arange(2), 100, 0)
    terms = by_hand_objective()(outputs, batch, plain_targets())
    assert [name for name, value in vars(terms).items() if getattr(value, "requires_grad", False)] == ["loss"]


def test_grpo_needs_no_constant_and_laser_does() -> None:
    rollouts, outputs = two_solutions()
    (batch,) = micro_batches(rollouts, torch.arange(2), 100, 0)
    terms = by_hand_objective(loss_weight=0.0, reference="calibrate")(outputs, batch, plain_targets())
    assert terms.self_reward_loss.item() == 0.0
    assert terms.loss.isfinite()
    with pytest.raises(UserError, match="not known yet"):
        by_hand_objective(reference="calibrate")(outputs, batch, plain_targets())


def test_an_all_truncated_step_has_a_finite_loss_and_gradient() -> None:
    rollouts, outputs = two_solutions()
    (batch,) = micro_batches(rollouts, torch.arange(2), 100, 0)
    targets = plain_targets()
    targets.self_reward_weights = torch.zeros(2)
    terms = by_hand_objective()(outputs, batch, targets)
    assert terms.self_reward_loss.item() == 0.0
    terms.loss.backward()
    assert outputs.reward_token_log_probs.grad is not None
    assert outputs.reward_token_log_probs.grad.tolist() == [[0.0], [0.0]]
    assert outputs.log_probs.grad is not None
    assert outputs.log_probs.grad.isfinite().all()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"micro_batch_tokens": 0}, "micro_batch_tokens"),
        ({"mini_batches": 0}, "mini_batches"),
        ({"epochs": -1}, "epochs"),
        ({"kl_coef": -0.1}, "kl_coef"),
        ({"entropy_coef": -0.1}, "entropy_coef"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=rf"update\.{named}"):
        UpdateSettings(**fields)


@pytest.mark.parametrize(
    ("mini_batches", "epochs", "expected"), [(1, 1, False), (2, 1, True), (1, 2, True), (2, 3, True)]
)
def test_when_rollouts_are_reused(mini_batches: int, epochs: int, expected: bool) -> None:
    assert UpdateSettings(mini_batches=mini_batches, epochs=epochs).reuses_rollouts == expected
