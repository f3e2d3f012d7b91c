"""REINFORCE that learns more from mistakes than from successes."""

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.losses import PolicyLoss, TokenLosses


class WeightedReinforce(PolicyLoss):
    """-w * ratio * A for each token, w = ``positive_weight`` where the advantage is positive and 1 elsewhere.

    A small weight keeps solutions diverse (W-REINFORCE, arXiv 2506.01347).

    Args:
        positive_weight: what solutions better than their group weigh.
    """

    def __init__(self, positive_weight: float = 0.1) -> None:
        if positive_weight < 0:
            raise UserError(f"policy_loss.positive_weight is {positive_weight}, and must be 0 or more.")
        self.positive_weight = positive_weight

    def __call__(self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLosses:
        ratios = (log_probs - old_log_probs).where(mask, 0.0).exp()  # 1 in the first update of a rollout
        weights = torch.where(advantages > 0, self.positive_weight, 1.0)
        return TokenLosses(-ratios * (weights * advantages)[:, None], clipped=torch.zeros_like(mask))
