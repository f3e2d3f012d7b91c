"""Which groups of solutions a step is filled with, by their accuracy."""

from dataclasses import dataclass

from torch import Tensor

from laser_lightning.errors import UserError

CORRECT = 0.5
"""Rewards above it count as correct, as they do for the self-rewarding loss."""


@dataclass(frozen=True)
class AccuracyBounds:
    """Bounds of the accuracy of the groups that a step is filled with (balanced filtering, arXiv 2504.03380).

    They come on top of what the curriculum keeps, by default groups whose rewards are not all equal. So with 0 and 1
    they change nothing. The paper's balanced filtering takes bounds at the same distance from one half.

    Args:
        low: smallest share of correct solutions.
        high: largest one.
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1 or self.low == 1 or self.high == 0:
            raise UserError(
                f"data.accuracy_bounds: low is {self.low} and high {self.high}; low must be at least 0 and below 1, "
                "and high above 0, at most 1, and no smaller than low."
            )

    @property
    def bind(self) -> bool:
        """Whether any group could lie outside."""
        return self.low > 0 or self.high < 1

    def contain(self, rewards: Tensor) -> Tensor:
        """[P] bool: whether the accuracy of each group lies between the bounds, or on them.

        Args:
            rewards: [P, G] of the verifier.
        """
        accuracy = (rewards > CORRECT).float().mean(dim=1)
        return (accuracy >= self.low) & (accuracy <= self.high)
