"""Which groups of solutions a step is filled with, by their accuracy."""

from dataclasses import dataclass

import torch
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
        correct, group_size = (rewards > CORRECT).sum(dim=1), rewards.shape[1]
        # Looked up by the count: a device may divide by G as times 1 / G, by which 9 of 10 can be more than 0.9.
        inside = [self._contain_share(count, group_size) for count in range(group_size + 1)]
        return torch.tensor(inside, device=rewards.device)[correct]

    def check(self, sampling_rounds: int, group_size: int | None) -> None:
        """Refuse bounds that nothing asks, or that no group with right and wrong solutions can meet.

        Args:
            sampling_rounds: of the module.
            group_size: of the module, G; None where it has none.

        Raises:
            UserError: naming both, and what is possible.
        """
        named = f"data.accuracy_bounds (from {self.low} to {self.high})"
        if self.bind and sampling_rounds == 1:
            raise UserError(
                f"{named} says which groups a step is filled with, and groups are taken as they come: set "
                "model.sampling_rounds above 1, such as 4."
            )
        mixed = range(1, group_size or 1)  # numbers of correct solutions
        if group_size is None or not mixed or any(self._contain_share(count, group_size) for count in mixed):
            return
        below = [count for count in mixed if count / group_size < self.low][-1:]
        above = [count for count in mixed if count / group_size > self.high][:1]
        nearest = ", ".join(f"{count / group_size:.4g} ({count} of {group_size})" for count in below + above)
        raise UserError(
            f"{named} contains no accuracy that a group with right and wrong solutions can have, as model.group_size "
            f"is {group_size}; the nearest: {nearest}. Widen the bounds, or set another model.group_size."
        )

    def _contain_share(self, correct: int, solutions: int) -> bool:
        return self.low <= correct / solutions <= self.high
