"""The clipped objective on the tokens at which the policy hesitated, and on no others."""

import math

from torch import Tensor

from laser_lightning.losses import (
    ClippedPolicyLoss,
    DistributionReading,
    DistributionReadings,
    PolicyTokens,
    TokenLosses,
)


class Likeliest(DistributionReading):
    """[T] log-prob of the likeliest token of the vocabulary where each token was drawn."""

    def __call__(self, log_probs: Tensor, token_ids: Tensor, given: Tensor | None) -> Tensor:
        return log_probs.amax(dim=-1)


class HesitantTokens(ClippedPolicyLoss):
    """The clipped objective where the likeliest token had a probability below ``most``, and 0 elsewhere.

    Args:
        most: below which probability of the likeliest token the policy hesitated.
    """

    readings = DistributionReadings(now=Likeliest())
    diagnostic_names = ("hesitant",)  # logged as train/hesitant

    def __init__(self, most: float = 0.8) -> None:
        super().__init__()
        self.most = most

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        found, hesitant = super().__call__(tokens), tokens.reading < math.log(self.most)
        return TokenLosses(found.losses * hesitant, found.clipped & hesitant, (hesitant.float(),))
