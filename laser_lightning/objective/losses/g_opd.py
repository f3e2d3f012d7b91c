"""G-OPD: on-policy distillation with a teacher whose lead over the start may be extrapolated."""

from laser_lightning.errors import UserError
from laser_lightning.objective.losses.clipped import ClippedPolicyLoss
from laser_lightning.objective.losses.policy_loss import PolicyTokens, TokenLosses


class GOPDPolicyLoss(ClippedPolicyLoss):
    """The clipped objective with the teacher's advantage of each token in the place of the reward's.

    A_t = scale * (log pi_T - log pi_base) - (log pi_old - log pi_base) (G-OPD, arXiv 2602.12125, equation of J_G-OPD,
    and the authors' code), the base being the frozen policy of before training. ``scale: 1`` is plain on-policy
    distillation (OPD), the reverse KL to the teacher, and runs no base; above 1 the student goes beyond the teacher
    (ExOPD, 1.25 in the paper). The paper's other base, the teacher before its RL, is not there: it would be a third
    frozen policy. All log-probs are at the sampling temperature, 1 in the paper. Rewards have no say in this loss, and
    neither have self-rewards; a self-rewarding loss beside it trains as ever.

    Args:
        scale: the paper's lambda.
        clip_low: how far the ratio may fall below 1 before its gradient is cut off.
        clip_high: how far it may rise above 1.
    """

    needs_teacher = True
    looks_at_advantages = uses_advantages = False
    diagnostic_names = ("g_opd/teacher_log_ratio",)

    def __init__(self, scale: float = 1.25, clip_low: float = 0.2, clip_high: float = 0.2) -> None:
        super().__init__(clip_low, clip_high)
        if not scale > 0:
            raise UserError(f"policy_loss.scale is {scale}, and must be above 0.")
        self.scale = scale
        self.needs_reference = scale != 1

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        """Per-token losses (see ``PolicyLoss``)."""
        teacher, old = tokens.teacher_log_probs, tokens.old_log_probs
        assert teacher is not None
        advantages = teacher - old
        if self.needs_reference:
            assert tokens.reference_log_probs is not None
            advantages = advantages + (self.scale - 1) * (teacher - tokens.reference_log_probs)
        losses = super().__call__(tokens._replace(advantages=advantages))
        return losses._replace(diagnostics=(teacher - old,))
