"""CISPO: REINFORCE with bounded importance weights, which cut off no token's gradient."""

from laser_lightning.errors import UserError
from laser_lightning.objective.losses.policy_loss import PolicyLoss, PolicyTokens, TokenLosses


class CISPOPolicyLoss(PolicyLoss):
    """-sg(clip(ratio, 1 - clip_low, 1 + clip_high)) * A * log pi for each token; sg passes no gradient.

    CISPO (MiniMax-M1, arXiv 2506.13585, equations 4 and 5), a mean over the step's tokens there
    (``update.aggregation: token_mean``). Where the clipped objective of PPO drops a token, the bound here only limits
    its weight. The value of this loss means little: it is not 0 on average where its gradient is.

    Args:
        clip_low: how far below 1 the weight may fall; 1 sets no lower bound, as in the paper.
        clip_high: how far above 1 it may rise; the paper tunes this one, and names no value.
    """

    def __init__(self, clip_low: float = 1.0, clip_high: float = 0.2) -> None:
        if not 0 <= clip_low <= 1 or not clip_high >= 0:
            raise UserError("policy_loss.clip_low must be between 0 and 1, and policy_loss.clip_high 0 or more.")
        self.clip_low, self.clip_high = clip_low, clip_high

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        """Per-token losses (see ``PolicyLoss``)."""
        ratio = (tokens.log_probs.detach() - tokens.old_log_probs).where(tokens.mask, 0.0).exp()
        weights = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        return TokenLosses(-weights * tokens.advantages * tokens.log_probs, (weights != ratio) & tokens.mask)
