"""Masked importance: what the engine sampled from another policy is left out."""

from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.losses.importance import ImportanceCorrection, ImportanceWeights, Level, ratios_of
from laser_lightning.shapes import Bool, Float


class MaskedImportance(ImportanceCorrection):
    """pi_trainer / pi_engine where it lies within bounds, and 0 elsewhere.

    With ``level: token`` this is IcePop (Ling team 2025, "Small Leak Can Sink a Great Ship"; Ring-1T, arXiv
    2510.18855, section 3.2), whose bounds are the defaults. With ``level: sequence`` it is the masked importance
    sampling of whole responses (MIS: Liu, Li et al. 2025, "When Speed Kills Stability", who bound it above alone:
    ``low: 0``), and with ``level: geometric`` its variant by the mean over tokens, whose bounds lie close to 1 and do
    not depend on the length. (The values of bounds could not be checked against these reports.)

    Args:
        level: ``token`` for a ratio of each token, ``sequence`` for their product over the response, ``geometric`` for
            their geometric mean over the response.
        low: smallest ratio that counts; 0 for no bound.
        high: largest ratio that counts.
    """

    def __init__(self, level: Level = "token", low: float = 0.5, high: float = 5.0) -> None:
        if not 0 <= low <= 1 <= high:
            raise UserError(
                f"update.importance keeps ratios between low = {low} and high = {high}: 1, the ratio of equal "
                "policies, must be among them, and low at least 0."
            )
        self.level, self.low, self.high = level, low, high

    def __call__(self, log_ratios: Float[Tensor, "B R"], mask: Bool[Tensor, "B R"]) -> ImportanceWeights:
        """The masked ratios (see ``ImportanceCorrection``)."""
        ratios = ratios_of(self.level, log_ratios, mask)
        kept = (ratios >= self.low) & (ratios <= self.high)
        return ImportanceWeights(ratios.where(kept, 0.0), ~kept & mask)
