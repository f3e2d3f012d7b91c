"""REINFORCE that learns more from mistakes than from successes."""

import torch

from laser_lightning.errors import UserError
from laser_lightning.losses import PolicyLoss, PolicyTokens, TokenLosses


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

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        # 1 in the first update of a rollout
        ratios = (tokens.log_probs - tokens.old_log_probs).where(tokens.mask, 0.0).exp()
        weights = torch.where(tokens.advantages > 0, self.positive_weight, 1.0)
        return TokenLosses(-ratios * weights * tokens.advantages, clipped=torch.zeros_like(tokens.mask))
