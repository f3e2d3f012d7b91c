"""Log-probs of an engine that are no numbers: each costs its token, and never the run."""

from dataclasses import replace

from laser_lightning.errors import UserError
from laser_lightning.records.batching import Rollouts

DAMAGED = "The policy's logits are not finite: its weights are damaged, or overflow in their dtype."


def leave_out_non_finite(rollouts: Rollouts) -> Rollouts:
    """Train on no token whose log-prob is not finite: ``loss_mask`` leaves it out, and the log-prob stays as it is.

    Args:
        rollouts: what an engine returned.
    """
    finite = rollouts.sampling_log_probs.isfinite()
    if bool(finite.all()):
        return rollouts
    return replace(rollouts, loss_mask=rollouts.trained_mask & finite)


def refuse_damaged(rollouts: Rollouts) -> None:
    """Refuse a round in which no response token has a log-prob.

    Raises:
        UserError: if there are responses, and not one finite log-prob among them.
    """
    mask = rollouts.response_mask
    if bool(mask.any()) and not bool((rollouts.sampling_log_probs.isfinite() & mask).any()):
        raise UserError(DAMAGED)
