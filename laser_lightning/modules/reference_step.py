"""A step whose solutions are rewarded by how probable they make the reference answer (RLPR, arXiv 2506.18254)."""

from dataclasses import dataclass

from torch import Tensor

from laser_lightning.records.rollout import SampledStep
from laser_lightning.shapes import Float


@dataclass
class ReferenceStep(SampledStep):
    """What a step sampled, with the probabilities of the reference answers.

    Attributes:
        probabilities: [N] mean probability of the reference answer's tokens behind each solution's reasoning; 0 where
            it has no place for one.
        direct: [P] the same without reasoning.
        formats: [N] 1 in the right format, else 0.
    """

    probabilities: Float[Tensor, " N"]
    direct: Float[Tensor, " P"]
    formats: Float[Tensor, " N"]

    def rewards(self, format_weight: float) -> Float[Tensor, " N"]:
        """[N] (1 - w) max(p - p_direct, 0) + w format: the probability, less its bias, and the format's share.

        Args:
            format_weight: w.
        """
        gains = (self.sampled.grouped(self.probabilities) - self.direct[:, None]).clamp(min=0).flatten()
        return (1 - format_weight) * gains + format_weight * self.formats
