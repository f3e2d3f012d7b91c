"""The mean reward, which for rewards other than 0 and 1 says more than the share above 0.5."""

from torch import Tensor

from laser_lightning.metrics.groups import GroupMetric, SampleGroups
from laser_lightning.shapes import Float


class MeanReward(GroupMetric):
    """Mean reward of the solutions of a problem, averaged over problems; NaN without data."""

    def problem_values(self, groups: SampleGroups) -> Float[Tensor, " P"]:
        """Mean reward of each problem, [P]."""
        return groups.sum(groups.rewards) / groups.sizes
