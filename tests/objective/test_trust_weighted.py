"""Tau of each group by what its scores are worth, by hand."""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from laser_lightning.objective.advantages import GroupRelative, SelfRewardMixing, TrustWeightedMixing
from laser_lightning.objective.context import StepContext

REWARDS = torch.tensor(
    [
        [1.0, 0.0, 0.0, 0.0],  # the correct one scores 1, the others 0 at most
        [1.0, 1.0, 0.0, 0.0],  # upside down by 1
        [1.0, 0.0, 0.0, 0.0],  # 0.25 against a mean of 0.5
        [1.0, 0.0, 0.0, 0.0],  # level
        [1.0, 1.0, 1.0, 1.0],
        [0.0, 0.0, 0.0, 0.0],
    ]
)
SCORES = torch.tensor(
    [
        [7.0, -3.0, 0.0, 0.0],
        [-1.0, 0.0, 1.0, 2.0],
        [0.25, 0.0, 0.5, 1.0],
        [0.5, 0.0, 0.5, 1.0],
        [0.0, 1.0, 0.0, 1.0],
        [0.0, 1.0, 0.0, 1.0],
    ]
)


def rollout(rewards: Tensor, finished: Tensor | None = None, unread: Tensor | None = None) -> Any:
    flags = torch.ones_like(rewards) if finished is None else finished
    read = torch.zeros_like(rewards) if unread is None else torch.zeros_like(rewards).masked_fill(unread, torch.nan)
    return SimpleNamespace(
        rewards=rewards.flatten(),
        rollouts=SimpleNamespace(finished=flags.flatten().bool(), reward_token_log_probs=read.view(-1, 1)),
        references=None,
        self_rewards=torch.zeros(rewards.numel()),
        grouped=lambda values: values.view(rewards.shape),
    )


def mixed(mixing: SelfRewardMixing) -> Tensor:
    def estimate(values: Tensor) -> Tensor:
        return GroupRelative()(values, rollout(REWARDS), StepContext())

    return mixing(REWARDS, SCORES, estimate, rollout(REWARDS), StepContext()).values.view(REWARDS.shape)


def test_tau_by_hand() -> None:
    taus = TrustWeightedMixing(tau=0.5).tau_of(REWARDS, SCORES.clamp(0, 1), rollout(REWARDS))
    expected = [0.5, 0.5 / math.e, 0.5 * math.exp(-0.25), 0.5, 0.5, 0.5]
    torch.testing.assert_close(taus, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_correct_is_what_the_verifier_says() -> None:
    # Shaped rewards, of long responses here, may be lower.
    shaped = REWARDS - torch.tensor([1.0, 0.0, 0.0, 0.0])
    taus = TrustWeightedMixing().tau_of(shaped, SCORES.clamp(0, 1), rollout(REWARDS))
    assert torch.equal(taus, TrustWeightedMixing().tau_of(REWARDS, SCORES.clamp(0, 1), rollout(REWARDS)))


# The first group has the means 0.75 and 0.5 without its truncated correct solution (0.375 with it), the second 0.25 and
# 0.75 without its truncated incorrect ones (0.25 with them), and of the third no correct solution is left.
PARTLY = torch.tensor([[1.0, 1, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
PARTLY_SCORES = torch.tensor([[0.75, 0, 0.5, 0.5], [0.25, 0.75, 0, 0], [0, 0, 0.5, 0.5]])
LEFT_OUT = torch.tensor([[False, True, False, False], [False, False, True, True], [True, True, False, False]])


def test_truncated_solutions_have_no_part_in_the_means() -> None:
    taus = TrustWeightedMixing(tau=0.5).tau_of(PARTLY, PARTLY_SCORES, rollout(PARTLY, finished=~LEFT_OUT))
    torch.testing.assert_close(taus, torch.tensor([0.5, 0.5 * math.exp(-0.5), 0.5], dtype=torch.float64))


def test_nor_have_those_whose_score_is_not_known() -> None:
    taus = TrustWeightedMixing(tau=0.5).tau_of(PARTLY, PARTLY_SCORES, rollout(PARTLY, unread=LEFT_OUT))
    torch.testing.assert_close(taus, torch.tensor([0.5, 0.5 * math.exp(-0.5), 0.5], dtype=torch.float64))


def test_trusted_groups_are_mixed_as_ever() -> None:
    trusted, plain = mixed(TrustWeightedMixing(tau=0.25)), mixed(SelfRewardMixing(tau=0.25))
    assert torch.equal(trusted[[0, 3, 4, 5]], plain[[0, 3, 4, 5]])
    tau = 0.25 / math.e
    by_verifier, by_self = (mixed(SelfRewardMixing(tau=one, min_std=0.0)) for one in (0.0, 1.0))
    torch.testing.assert_close(trusted[1], (1 - tau) * by_verifier[1] + tau * by_self[1])


def test_unanimous_groups_are_mixed_as_configured() -> None:
    assert torch.equal(mixed(TrustWeightedMixing(mix_unanimous_groups=False))[4:], torch.zeros(2, 4))
    assert (mixed(TrustWeightedMixing())[4:] != 0).all()
