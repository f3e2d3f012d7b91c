"""The clipped surrogate objective of PPO and GRPO, with separate bounds (clip-higher)."""

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.losses.policy_loss import PolicyLoss, PolicyTokens, TokenLosses
from laser_lightning.shapes import Bool, Float


class ClippedPolicyLoss(PolicyLoss):
    """-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) for each token.

    PPO (arXiv 1707.06347, equation 7) with the token ratios of GRPO (arXiv 2402.03300, equation 3); a larger upper
    bound is DAPO's clip-higher (arXiv 2503.14476, equation 10).

    Args:
        clip_low: how far the ratio may fall below 1 before its gradient is cut off.
        clip_high: how far it may rise above 1.
    """

    def __init__(self, clip_low: float = 0.2, clip_high: float = 0.2) -> None:
        if not 0 <= clip_low < 1 or clip_high < 0:
            raise UserError("policy_loss.clip_low must be at least 0 and below 1, and policy_loss.clip_high 0 or more.")
        self.clip_low, self.clip_high = clip_low, clip_high

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        """Per-token losses (see ``PolicyLoss``)."""
        ratio = self.ratios((tokens.log_probs - tokens.old_log_probs).where(tokens.mask, 0.0), tokens.mask)
        free = ratio * tokens.advantages
        bounded = ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * tokens.advantages
        return TokenLosses(-torch.minimum(free, bounded), (bounded < free) & tokens.mask)

    def ratios(self, log_ratios: Float[Tensor, "B R"], mask: Bool[Tensor, "B R"]) -> Float[Tensor, "B R"]:
        """[B, R] what is clipped: the ratios of tokens, from their logarithms, which are 0 outside the mask."""
        return log_ratios.exp()
