"""Self-rewards trained towards a blend of the solution's reward and its group's (CREDO)."""

from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.self_reward.solutions import StepSolutions
from laser_lightning.objective.self_reward.target import SelfRewardTarget
from laser_lightning.shapes import Float


class HybridTarget(SelfRewardTarget):
    """t = gamma * r + (1 - gamma) * (mean reward of the group), truncated solutions included in the mean.

    The group's mean is an estimate of how often the policy solves the problem, which varies less than the reward of
    one solution. From a gamma of 1/2 on a right solution's target is never below that of the verdict "correct", nor a
    wrong one's above it.

    CREDO (arXiv 2609.34857), whose gamma is 0.5; from a summary of the paper, whose text was not at hand.

    Args:
        gamma: the share of the solution's own reward; 1 is ``VerifierTarget``.
    """

    needs_groups = True

    def __init__(self, gamma: float = 0.5) -> None:
        if not 0 <= gamma <= 1:
            raise UserError(f"self_reward.target.gamma is {gamma}, and must be between 0 and 1.")
        self.gamma = gamma

    def aim(self, solutions: StepSolutions) -> Float[Tensor, "P G"]:
        """[P, G] the blends."""
        means = solutions.rewards.mean(dim=1, keepdim=True)
        return self.gamma * solutions.rewards + (1 - self.gamma) * means
