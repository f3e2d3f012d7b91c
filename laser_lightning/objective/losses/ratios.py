"""Raw importance ratios of a step, as they are before any correction."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from laser_lightning.objective.sums import MAXIMUM, Sums
from laser_lightning.shapes import Bool, Float, Real

BOUNDS = (0.5, 2.0)
"""Ratios that are far from 1: those outside."""

_LARGEST = 300.0  # logarithm at which a ratio, and its square, is still finite in float64


@dataclass(frozen=True)
class RatioSums(Sums):
    """pi_trainer / pi_engine of trained tokens, pi_trainer being the policy that the update started from.

    Attributes:
        tokens: scalar, their number.
        ratios: scalar, their sum.
        squares: scalar, the sum of their squares.
        outside: scalar, how many are outside of ``BOUNDS``.
        largest: scalar, the largest of them.
    """

    tokens: Real[Tensor, ""]
    ratios: Float[Tensor, ""]
    squares: Float[Tensor, ""]
    outside: Real[Tensor, ""]
    largest: Float[Tensor, ""] = field(metadata=MAXIMUM)

    @classmethod
    @torch.no_grad()
    def between(
        cls, log_probs: Float[Tensor, "B R"], sampling_log_probs: Float[Tensor, "B R"], mask: Bool[Tensor, "B R"]
    ) -> "RatioSums":
        """Compare the log-probs of a micro-batch with the engine's.

        Args:
            log_probs: [B, R] of the policy that the update started from.
            sampling_log_probs: [B, R] of the engine.
            mask: [B, R] bool, the tokens that are trained on.
        """
        logs = (log_probs.double() - sampling_log_probs).where(mask, -torch.inf)
        ratios = logs.clamp(max=_LARGEST).exp()
        outside = ((ratios < BOUNDS[0]) | (ratios > BOUNDS[1])) & mask
        return cls(mask.sum(), ratios.sum(), ratios.square().sum(), outside.sum(), ratios.amax())

    def values_by_name(self) -> dict[str, float]:
        """Mean, maximum, effective sample size (sum^2 / sum of squares) over the tokens, share outside of ``BOUNDS``.

        Nothing where there was no token.
        """
        if not self.tokens:
            return {}
        return {
            "ratio_mean": float(self.ratios / self.tokens),
            "ratio_max": float(self.largest),
            "ratio_effective_share": float(self.ratios.square() / self.squares / self.tokens),
            "ratio_outside": float(self.outside / self.tokens),
        }
