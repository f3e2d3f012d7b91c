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
        return clip_surrogate(ratio, tokens, self.clip_low, self.clip_high)

    def ratios(self, log_ratios: Float[Tensor, "B R"], mask: Bool[Tensor, "B R"]) -> Float[Tensor, "B R"]:
        """[B, R] what is clipped: the ratios of tokens, from their logarithms, which are 0 outside the mask."""
        return log_ratios.exp()


def clip_surrogate(
    ratio: Float[Tensor, "B R"],
    tokens: PolicyTokens,
    clip_low: float | Float[Tensor, "B R"],
    clip_high: float | Float[Tensor, "B R"],
) -> TokenLosses:
    """-min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A) of given ratios.

    Args:
        ratio: [B, R], with gradient.
        tokens: whose advantages these are.
        clip_low: how far a ratio may fall below 1, the same for all tokens or [B, R].
        clip_high: how far it may rise above 1.
    """
    free = ratio * tokens.advantages
    bounded = torch.clamp(ratio, 1 - clip_low, 1 + clip_high) * tokens.advantages  # type: ignore[arg-type]
    return TokenLosses(-torch.minimum(free, bounded), (bounded < free) & tokens.mask)
