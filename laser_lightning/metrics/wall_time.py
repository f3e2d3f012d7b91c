"""How long users wait."""

import torch
from torch import Tensor

from laser_lightning.metrics.base import ExactMetric
from laser_lightning.shapes import Float, Int

MICROSECONDS = 1_000_000


class WallTime(ExactMetric):
    """Seconds summed up on each rank; of ranks that work at the same time the slowest one counts."""

    microseconds: Int[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("microseconds", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def update(self, seconds: float) -> None:
        """Add the seconds that a part of the work took on this rank."""
        self.microseconds = self.microseconds + round(seconds * MICROSECONDS)

    def compute(self) -> Float[Tensor, ""]:
        """The largest sum of any rank, in seconds; 0 without an update."""
        return self.microseconds / MICROSECONDS
