"""Advantages: how much better a solution is than its group, or than all solutions of the round."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.shaping.overlong import OverlongSettings

AllSum = Callable[[Tensor], Tensor]
Estimator = Literal["group_relative", "leave_one_out", "batch_normalized", "batch_normalized_with_baseline"]


@dataclass(frozen=True)
class AdvantageSettings:
    """How advantages are computed.

    Args:
        divide_by_std: divide by the group's standard deviation (GRPO); without it, Dr.GRPO. The other estimators have
            a fixed form, and only ``group_relative`` takes false.
        self_reward_mix: tau, the share of the self-rewarding advantage in the integrated phase; 0 mixes nothing.
        min_std: in a group whose clamped self-rewards vary no more than this, only the verifier counts.
        mix_unanimous_groups: mix also in groups whose rewards are all equal, where the self-reward is then the only
            signal, as the paper's formula has it.
        epsilon: added to the standard deviation.
        estimator: what a reward is compared with: ``group_relative`` (GRPO) with its group, ``leave_one_out`` (RLOO)
            with the others of its group, ``batch_normalized`` (REINFORCE++) with all solutions of the round, and
            ``batch_normalized_with_baseline`` (REINFORCE++ with baseline) with its group, in standard deviations of
            the round.
        overlong: lower the rewards of responses that come close to the length limit (DAPO); null for no such penalty.
    """

    divide_by_std: bool = True
    self_reward_mix: float = 0.1
    min_std: float = 0.1
    mix_unanimous_groups: bool = True
    epsilon: float = 1e-6
    estimator: Estimator = "group_relative"
    overlong: OverlongSettings | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.self_reward_mix <= 1:
            raise UserError(f"advantage.self_reward_mix is {self.self_reward_mix}, and must be between 0 and 1.")
        if self.min_std < 0 or self.epsilon < 0:
            raise UserError("advantage.min_std and advantage.epsilon must be 0 or more.")
        if not self.divide_by_std and self.estimator != "group_relative":
            raise UserError(
                f"advantage.divide_by_std is false, which is for the estimator 'group_relative' alone: leave it out "
                f"with advantage.estimator '{self.estimator}'."
            )


class Advantages(NamedTuple):
    """How much better each solution is than what it is compared with.

    Attributes:
        values: [N].
        mixed_groups: [P] bool, groups in which self-rewards had a say.
    """

    values: Tensor
    mixed_groups: Tensor


def estimated(rewards: Tensor, settings: AdvantageSettings, all_sum: AllSum) -> Tensor:
    """Advantages by the estimator of the settings.

    Args:
        rewards: [P, G], a row per group.
        settings: which estimator.
        all_sum: sums a tensor over all ranks, for the estimators that look at the whole round; all ranks call together.

    Returns:
        [P, G].
    """
    if settings.estimator == "group_relative":
        return group_relative(rewards, settings.divide_by_std, settings.epsilon)
    if settings.estimator == "leave_one_out":
        return leave_one_out(rewards)
    with_baseline = settings.estimator == "batch_normalized_with_baseline"
    return batch_normalized(rewards, with_baseline, settings.epsilon, all_sum)


def group_relative(rewards: Tensor, divide_by_std: bool = True, epsilon: float = 1e-6) -> Tensor:
    """Group-relative advantages (GRPO, arXiv 2402.03300, section 4.1.2).

    Args:
        rewards: [P, G], a row per group.
        divide_by_std: divide by the group's sample standard deviation plus ``epsilon``; without it, the advantages of
            Dr.GRPO (arXiv 2503.20783, section 3.2).
        epsilon: see above.

    Returns:
        [P, G]; 0 in groups whose rewards are all equal, and for groups of one.
    """
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if divide_by_std and rewards.shape[1] > 1:
        advantages = advantages / (rewards.std(dim=1, keepdim=True) + epsilon)
    # Exactly 0, where the rounding of the mean was divided by a tiny number, or 0 by 0.
    return advantages.masked_fill(_unanimous(rewards), 0.0)


def leave_one_out(rewards: Tensor) -> Tensor:
    """The reward minus the mean of the group's other rewards (RLOO, arXiv 2402.14740, the leave-one-out estimator).

    Args:
        rewards: [P, G], a row per group.

    Returns:
        [P, G]; 0 in groups whose rewards are all equal, and for groups of one.
    """
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / max(rewards.shape[1] - 1, 1)
    return (rewards - others).masked_fill(_unanimous(rewards), 0.0)


def batch_normalized(rewards: Tensor, with_baseline: bool, epsilon: float, all_sum: AllSum) -> Tensor:
    """Rewards normalised over the round (REINFORCE++, arXiv 2501.03262, global advantage normalisation).

    The mean and the standard deviation are those of all solutions that the round sampled on all ranks, so that the
    result does not depend on the number of ranks. The variant with a baseline takes the distances from the group's mean
    in place of the rewards; their mean over the round is 0 by itself.

    Args:
        rewards: [P, G], a row per group.
        with_baseline: subtract the group's mean first.
        epsilon: added to the sample standard deviation.
        all_sum: sums a tensor over all ranks.

    Returns:
        [P, G]; 0 where a reward equals the mean it is compared with.
    """
    count = rewards.new_tensor(rewards.numel(), dtype=torch.float64)
    if with_baseline:
        centred = group_relative(rewards, divide_by_std=False)
    else:
        total, number = all_sum(torch.stack((rewards.double().sum(), count)))
        # Rounded to the type of the rewards, the mean of equal rewards is that reward, and they end at exactly 0.
        centred = rewards - (total / number).to(rewards.dtype)
    squares, number = all_sum(torch.stack((centred.double().square().sum(), count)))
    std = (squares / (number - 1).clamp(min=1)).sqrt().to(rewards.dtype)
    return (centred / (std + epsilon)).masked_fill(centred == 0, 0.0)


def mixed(rewards: Tensor, self_rewards: Tensor, settings: AdvantageSettings, all_sum: AllSum) -> tuple[Tensor, Tensor]:
    """Advantages of the integrated phase: (1 - tau) * A_v + tau * A_s (LaSeR, arXiv 2510.14943).

    Args:
        rewards: [P, G] of the verifier.
        self_rewards: [P, G], 0 for truncated solutions; clamped to [0, 1] here.
        settings: tau, which groups are mixed, and the estimator of both parts.
        all_sum: sums a tensor over all ranks.

    Returns:
        The advantages [P, G], and which groups were mixed [P] bool.
    """
    by_verifier = estimated(rewards, settings, all_sum)
    if settings.self_reward_mix == 0 or rewards.shape[1] == 1:
        return by_verifier, torch.zeros(len(rewards), dtype=torch.bool, device=rewards.device)
    scores = self_rewards.clamp(0, 1)
    by_self = estimated(scores, settings, all_sum)
    is_mixed = scores.std(dim=1, keepdim=True) > settings.min_std
    if not settings.mix_unanimous_groups:
        is_mixed = is_mixed & ~_unanimous(rewards)
    tau = settings.self_reward_mix
    return torch.where(is_mixed, (1 - tau) * by_verifier + tau * by_self, by_verifier), is_mixed.squeeze(1)


def _unanimous(rewards: Tensor) -> Tensor:
    """[P, 1] bool: groups whose rewards are all equal."""
    return (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
