"""Advantages: how much better a solution is than its group."""

from dataclasses import dataclass

import torch
from torch import Tensor

from laser_lightning.errors import UserError


@dataclass(frozen=True)
class AdvantageSettings:
    """How advantages are computed.

    Args:
        divide_by_std: divide by the group's standard deviation (GRPO); without it, Dr.GRPO.
        self_reward_mix: tau, the share of the self-rewarding advantage in the integrated phase; 0 mixes nothing.
        min_std: in a group whose clamped self-rewards vary no more than this, only the verifier counts.
        mix_unanimous_groups: mix also in groups whose rewards are all equal, where the self-reward is then the only
            signal, as the paper's formula has it.
        epsilon: added to the standard deviation.
    """

    divide_by_std: bool = True
    self_reward_mix: float = 0.1
    min_std: float = 0.1
    mix_unanimous_groups: bool = True
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 <= self.self_reward_mix <= 1:
            raise UserError(f"advantage.self_reward_mix is {self.self_reward_mix}, and must be between 0 and 1.")
        if self.min_std < 0 or self.epsilon < 0:
            raise UserError("advantage.min_std and advantage.epsilon must be 0 or more.")


def group_relative(rewards: Tensor, divide_by_std: bool = True, epsilon: float = 1e-6) -> Tensor:
    """Group-relative advantages (GRPO, arXiv 2402.03300, section 4.1.2).

    Args:
        rewards: [P, G], a row per group.
        divide_by_std: divide by the group's sample standard deviation plus ``epsilon``.
        epsilon: see above.

    Returns:
        [P, G]; 0 in groups whose rewards are all equal, and for groups of one.
    """
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if divide_by_std and rewards.shape[1] > 1:
        advantages = advantages / (rewards.std(dim=1, keepdim=True) + epsilon)
    # Exactly 0, where the rounding of the mean was divided by a tiny number, or 0 by 0.
    return advantages.masked_fill(_unanimous(rewards), 0.0)


def mixed(rewards: Tensor, self_rewards: Tensor, settings: AdvantageSettings) -> tuple[Tensor, Tensor]:
    """Advantages of the integrated phase: (1 - tau) * A_v + tau * A_s (LaSeR, arXiv 2510.14943).

    Args:
        rewards: [P, G] of the verifier.
        self_rewards: [P, G], 0 for truncated solutions; clamped to [0, 1] here.
        settings: tau, and which groups are mixed.

    Returns:
        The advantages [P, G], and which groups were mixed [P] bool.
    """
    by_verifier = group_relative(rewards, settings.divide_by_std, settings.epsilon)
    if settings.self_reward_mix == 0 or rewards.shape[1] == 1:
        return by_verifier, torch.zeros(len(rewards), dtype=torch.bool, device=rewards.device)
    scores = self_rewards.clamp(0, 1)
    by_self = group_relative(scores, settings.divide_by_std, settings.epsilon)
    is_mixed = scores.std(dim=1, keepdim=True) > settings.min_std
    if not settings.mix_unanimous_groups:
        is_mixed = is_mixed & ~_unanimous(rewards)
    tau = settings.self_reward_mix
    return torch.where(is_mixed, (1 - tau) * by_verifier + tau * by_self, by_verifier), is_mixed.squeeze(1)


def _unanimous(rewards: Tensor) -> Tensor:
    """[P, 1] bool: groups whose rewards are all equal."""
    return (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
