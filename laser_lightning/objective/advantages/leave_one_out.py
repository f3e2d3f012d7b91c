"""Rewards compared with the others of their group (RLOO)."""

from torch import Tensor

from laser_lightning.objective.advantages.estimator import AdvantageEstimator
from laser_lightning.objective.advantages.groups import unanimous
from laser_lightning.objective.context import StepContext
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class LeaveOneOut(AdvantageEstimator):
    """A = r - mean of the group's other rewards (RLOO, arXiv 2402.14740, the leave-one-out estimator)."""

    def __call__(self, rewards: Float[Tensor, "P G"], rollout: Rollout, context: StepContext) -> Float[Tensor, "P G"]:
        """[P, G] (see ``AdvantageEstimator``); 0 in groups whose rewards are all equal, and for groups of one."""
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / max(rewards.shape[1] - 1, 1)
        return (rewards - others).masked_fill(unanimous(rewards), 0.0)
