"""Importance weights that leave out the tokens on which engine and trainer disagree."""

from torch import Tensor

from laser_lightning import ImportanceCorrection
from laser_lightning.losses import ImportanceWeights


class MaskedImportance(ImportanceCorrection):
    """pi_trainer / pi_engine of each token, and 0 where it is not within [low, high].

    Args:
        low: smallest ratio that counts.
        high: largest one.
    """

    def __init__(self, low: float = 0.5, high: float = 2.0) -> None:
        self.low, self.high = low, high

    def __call__(self, log_ratios: Tensor, mask: Tensor) -> ImportanceWeights:
        ratios = log_ratios.exp()
        outside = (ratios < self.low) | (ratios > self.high)
        return ImportanceWeights(ratios.masked_fill(outside, 0.0), outside & mask)
