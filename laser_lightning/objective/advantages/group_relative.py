"""Rewards compared with those of their group (GRPO, Dr.GRPO)."""

from torch import Tensor

from laser_lightning.objective.advantages.estimator import AdvantageEstimator
from laser_lightning.objective.advantages.groups import centre, check_epsilon, divide
from laser_lightning.objective.context import StepContext
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class GroupRelative(AdvantageEstimator):
    """A = (r - mean) / (std + epsilon), mean and sample standard deviation those of the group.

    GRPO (arXiv 2402.03300, section 4.1.2); without the division, Dr.GRPO (arXiv 2503.20783, section 3.2).

    Args:
        divide_by_std: divide by the group's standard deviation.
        epsilon: added to it.
    """

    def __init__(self, divide_by_std: bool = True, epsilon: float = 1e-6) -> None:
        check_epsilon(epsilon)
        self.divide_by_std, self.epsilon = divide_by_std, epsilon

    def __call__(self, rewards: Float[Tensor, "P G"], rollout: Rollout, context: StepContext) -> Float[Tensor, "P G"]:
        """[P, G] (see ``AdvantageEstimator``); 0 in groups whose rewards are all equal, and for groups of one."""
        advantages = centre(rewards)
        if not self.divide_by_std or rewards.shape[1] == 1:
            return advantages
        return divide(advantages, rewards.std(dim=1, keepdim=True), self.epsilon)
