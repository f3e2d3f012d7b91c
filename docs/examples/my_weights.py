"""Weights of the self-rewarding loss that leave out groups from which a model learns only how hard a problem is."""

from torch import Tensor

from laser_lightning import SelfRewardWeights, StepSolutions


class MixedGroupsOnly(SelfRewardWeights):
    """Solutions of groups whose rewards are all equal weigh nothing (Heimdall, arXiv 2504.10337), all others the same.

    Args:
        smallest_group: leave out groups with fewer finished solutions too.
    """

    def __init__(self, smallest_group: int = 2) -> None:
        self.smallest_group = smallest_group

    def weigh(self, solutions: StepSolutions) -> Tensor:
        rewards, finished = solutions.rewards, solutions.finished
        is_mixed = (rewards != rewards[:, :1]).any(dim=1) & (finished.sum(dim=1) >= self.smallest_group)
        kept = finished & is_mixed[:, None]
        return kept / solutions.context.ranks.sum(kept.sum()).clamp(min=1)
