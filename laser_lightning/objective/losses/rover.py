"""ROVER: the policy's log-ratios are trained to be Q-values of a uniformly random policy."""

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.losses.policy_loss import (
    PolicyLoss,
    PolicyTokens,
    TokenLosses,
    all_after_the_first_step,
)
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.distributions import DistributionReading, DistributionReadings
from laser_lightning.shapes import Bool, Float, Int, Shaped


class MeanLogProb(DistributionReading):
    """[T] mean over the vocabulary of the log-probs."""

    def __call__(
        self, log_probs: Float[Tensor, "T V"], token_ids: Int[Tensor, " T"], given: Shaped[Tensor, "T ..."] | None
    ) -> Float[Tensor, " T"]:
        """See ``DistributionReading``."""
        return log_probs.mean(dim=-1)


class ROVERPolicyLoss(PolicyLoss):
    """(q_t - target_t)^2 for each token, q_t = rho * (log pi - log pi_old), target_t = A + rho * drift_(t+1).

    ROVER (arXiv 2509.24981, section 4 and algorithm 1; the authors' code for countdown): Q of the next state under the
    uniform policy is the mean over the vocabulary of rho * (log pi - log pi_old), 0 behind the last token, and no
    gradient passes the target. The rewards that the paper centres by the group's mean are the advantages here:
    ``GroupRelative`` with ``divide_by_std: false`` for the paper's formula, with true for the variant that its code has
    beside it. (The code for mathematics centres them in another way, which is not reproduced.)

    On the first optimizer step of a rollout the target is A and the gradient that of REINFORCE, twice as large: set
    ``update.mini_batches`` or ``update.epochs`` above 1 for the rest of it to act.

    Args:
        rho: temperature of the Q-values.
    """

    readings = DistributionReadings(old=MeanLogProb(), now=MeanLogProb())
    diagnostic_names = ("rover/next_q",)

    def __init__(self, rho: float = 1.0) -> None:
        if not rho > 0:
            raise UserError(f"policy_loss.rho is {rho}, and must be above 0.")
        self.rho = rho

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        """Per-token losses (see ``PolicyLoss``)."""
        assert tokens.reading is not None
        values = self.rho * (tokens.log_probs - tokens.old_log_probs)
        next_q = torch.zeros_like(values)
        if tokens.old_reading is not None:  # else the policy is still the old one
            drift = self.rho * (tokens.reading - tokens.old_reading).where(tokens.mask, 0.0)
            next_q = drift.detach().gather(1, next_places(tokens.mask)).where(has_next(tokens.mask), 0.0)
        losses = (values - (tokens.advantages + next_q)).square()
        return TokenLosses(losses, torch.zeros_like(tokens.mask), (next_q.detach(),))

    def has_gradient(self, targets: Targets) -> Bool[Tensor, " N"]:
        """Those with an advantage, and all once the policy has left the old one."""
        return all_after_the_first_step(targets, super().has_gradient(targets))


def next_places(mask: Bool[Tensor, "B R"]) -> Int[Tensor, "B R"]:
    """[B, R] int64: where behind each place the next trained token is, past those that others wrote; R - 1 for none."""
    width = mask.shape[1]
    places = torch.arange(width, device=mask.device).where(mask, width - 1)
    behind = torch.nn.functional.pad(places[:, 1:], (0, 1), value=width - 1)
    return behind.flip(1).cummin(dim=1).values.flip(1)


def has_next(mask: Bool[Tensor, "B R"]) -> Bool[Tensor, "B R"]:
    """[B, R] bool: places with a trained token behind them."""
    return mask.flip(1).cumsum(dim=1).flip(1) - mask.long() > 0
