"""How self-rewards enter the advantages in the integrated phase."""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.advantages.groups import unanimous
from laser_lightning.objective.advantages.record import Advantages
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.part import ObjectivePart
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Bool, Float

Estimate = Callable[[Float[Tensor, "P G"]], Float[Tensor, "P G"] | Float[Tensor, "P*G R"]]
"""The step's advantage estimator: values [P, G] in, [P, G] or [P * G, R] out."""


class AdvantageMixing(ObjectivePart):
    """Makes the advantages of the integrated phase out of the verifier's rewards and the self-rewards."""

    @abstractmethod
    def __call__(
        self,
        rewards: Float[Tensor, "P G"],
        self_rewards: Float[Tensor, "P G"],
        estimate: Estimate,
        rollout: Rollout,
        context: StepContext,
    ) -> Advantages:
        """Advantages of a step's solutions.

        Args:
            rewards: [P, G] of the verifier, shaped.
            self_rewards: [P, G], 0 for truncated solutions, not clamped.
            estimate: the step's estimator, a collective operation where it looks at all ranks.
            rollout: the P * G solutions.
            context: the step.
        """


class SelfRewardMixing(AdvantageMixing):
    """A = (1 - tau) * A_v + tau * A_s, of the verifier's rewards and of self-rewards clamped to [0, 1].

    LaSeR (arXiv 2510.14943); ``tau_of`` is the place for a tau of each group.

    Args:
        tau: the share of the self-rewarding advantage; 0 mixes nothing.
        min_std: in a group whose clamped self-rewards vary no more than this, only the verifier counts.
        mix_unanimous_groups: mix also in groups whose rewards by the verifier, before shaping, are all equal, where the
            self-reward is then the only signal, as the paper's formula has it.
    """

    def __init__(self, tau: float = 0.1, min_std: float = 0.1, mix_unanimous_groups: bool = True) -> None:
        if not 0 <= tau <= 1:
            raise UserError(f"advantage.mixing.tau is {tau}, and must be between 0 and 1.")
        if min_std < 0:
            raise UserError(f"advantage.mixing.min_std is {min_std}, and must be 0 or more.")
        self.tau, self.min_std, self.mix_unanimous_groups = tau, min_std, mix_unanimous_groups

    def __call__(
        self,
        rewards: Float[Tensor, "P G"],
        self_rewards: Float[Tensor, "P G"],
        estimate: Estimate,
        rollout: Rollout,
        context: StepContext,
    ) -> Advantages:
        """The mixed advantages (see ``AdvantageMixing``)."""
        by_verifier = estimate(rewards)
        if self.tau == 0 or rewards.shape[1] == 1:
            return Advantages.of(by_verifier, rewards)
        scores = self_rewards.clamp(0, 1)
        by_self = estimate(scores)
        mixed = self.mixed_groups(rewards, scores, rollout)
        # In double precision, so that 1 - tau is rounded once.
        tau, is_mixed = self.tau_of(rewards, scores, rollout).double()[:, None], mixed[:, None]
        if len(by_verifier) != len(rewards):  # a row for each solution in place of each group
            tau, is_mixed = (column.repeat_interleave(rewards.shape[1], dim=0) for column in (tau, is_mixed))
        of_both = (1 - tau).to(by_self.dtype) * by_verifier + tau.to(by_self.dtype) * by_self
        return Advantages.of(torch.where(is_mixed, of_both, by_verifier), rewards, mixed)

    def mixed_groups(
        self, rewards: Float[Tensor, "P G"], scores: Float[Tensor, "P G"], rollout: Rollout
    ) -> Bool[Tensor, " P"]:
        """[P] bool: groups in which self-rewards have a say.

        Args:
            rewards: [P, G] of the verifier, shaped.
            scores: [P, G] clamped self-rewards.
            rollout: the P * G solutions.
        """
        mixed = scores.std(dim=1, keepdim=True) > self.min_std
        if not self.mix_unanimous_groups:
            mixed = mixed & ~unanimous(rollout.grouped(rollout.rewards))
        return mixed.squeeze(1)

    def tau_of(
        self, rewards: Float[Tensor, "P G"], scores: Float[Tensor, "P G"], rollout: Rollout
    ) -> Float[Tensor, " P"]:
        """[P] tau of each group, the same for all here; a subclass may look at what the group's scores are worth.

        Args:
            rewards: [P, G] of the verifier, shaped.
            scores: [P, G] clamped self-rewards.
            rollout: the P * G solutions.
        """
        return torch.full_like(rewards[:, 0], self.tau, dtype=torch.float64)
