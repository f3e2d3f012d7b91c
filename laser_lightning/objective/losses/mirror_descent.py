"""Kimi k1.5's policy mirror descent."""

from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.losses.policy_loss import (
    PolicyLoss,
    PolicyTokens,
    TokenLosses,
    all_after_the_first_step,
)
from laser_lightning.objective.targets import Targets
from laser_lightning.shapes import Bool


class MirrorDescentPolicyLoss(PolicyLoss):
    """-A * d + tau / 2 * d^2 for each solution, d = log pi(y|x) - log pi_old(y|x), sums over its tokens.

    The gradient is that of Kimi k1.5 (arXiv 2501.12599, section 2.3.2, equation 3): log pi(y|x) (r - mean r) less tau /
    2 (log pi / pi_i)^2, pi_i the policy of the iteration's beginning, which drew the solutions. Nothing is clipped; the
    square holds the policy. The loss of a solution stands at each of its tokens, so ``update.aggregation:
    sequence_mean`` makes the paper's mean over solutions of it; the paper's advantages are plain distances from the
    group's mean (``GroupRelative`` with ``divide_by_std: false``). The paper names no value of tau.

    Args:
        tau: weight of the square; it acts from a rollout's second optimizer step on.
    """

    def __init__(self, tau: float = 0.1) -> None:
        if tau < 0:
            raise UserError(f"policy_loss.tau is {tau}, and must be 0 or more.")
        self.tau = tau

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        """Per-token losses (see ``PolicyLoss``)."""
        moved = (tokens.log_probs - tokens.old_log_probs).where(tokens.mask, 0.0)
        distance = moved.sum(dim=1, keepdim=True)
        weighted = (tokens.advantages * moved).where(tokens.mask, 0.0).sum(dim=1, keepdim=True)
        losses = -weighted + self.tau / 2 * distance.square()
        return TokenLosses(losses.expand_as(moved), tokens.mask.new_zeros(moved.shape))

    def has_gradient(self, targets: Targets) -> Bool[Tensor, " N"]:
        """Those with an advantage, and all once the square acts."""
        with_advantage = super().has_gradient(targets)
        return all_after_the_first_step(targets, with_advantage) if self.tau > 0 else with_advantage
