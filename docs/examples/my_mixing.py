"""Self-rewards have a say only where they are known to be right."""

import torch
from torch import Tensor

from laser_lightning import SelfRewardMixing
from laser_lightning.records.rollout import Rollout


class MixWhereRight(SelfRewardMixing):
    """LaSeR's mixing, with tau = 0 in groups whose correct solutions have no higher self-rewards than the others.

    Args:
        tau: the share of the self-rewarding advantage in all other groups.
        min_std: in a group whose clamped self-rewards vary no more than this, only the verifier counts.
    """

    def __init__(self, tau: float = 0.1, min_std: float = 0.1) -> None:
        super().__init__(tau, min_std, mix_unanimous_groups=False)

    def tau_of(self, rewards: Tensor, scores: Tensor, rollout: Rollout) -> Tensor:
        correct = rewards > 0.5
        of_correct = scores.where(correct, torch.nan).nanmean(dim=1)  # NaN where there are none: not higher
        of_others = scores.where(~correct, torch.nan).nanmean(dim=1)
        return self.tau * (of_correct > of_others).double()
