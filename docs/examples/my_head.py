"""A self-reward head that reads two tokens, and learns by a hinge loss to keep them apart."""

import torch
from torch import Tensor

from laser_lightning import Readings, SelfRewardHead, Supervision


class HingeSelfReward(SelfRewardHead):
    """The self-reward is the probability of "yes" against "no"; their log-probs are driven ``margin`` apart.

    Args:
        yes: the token for correct solutions.
        no: the token for incorrect ones.
        margin: distance (nats) from which on a solution is judged well enough.
        loss_weight: weight of the loss.
    """

    def __init__(self, yes: str = "Y", no: str = "N", margin: float = 2.0, loss_weight: float = 0.1) -> None:
        super().__init__({"yes": yes, "no": no}, loss_weight)
        self.margin = margin

    def score(self, readings: Readings) -> Tensor:
        yes, no = readings.log_probs.unbind(dim=1)
        return (yes - no).sigmoid()

    def loss(self, readings: Readings, supervision: Supervision) -> Tensor:
        yes, no = readings.log_probs.unbind(dim=1)
        signs = torch.where(supervision.targets > 0.5, 1.0, -1.0)
        errors = (self.margin - signs * (yes - no)).relu()
        return (supervision.weights * errors).sum()
