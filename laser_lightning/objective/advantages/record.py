"""The record of a step's advantages."""

from typing import NamedTuple

import torch
from torch import Tensor

from laser_lightning.shapes import Bool, Float


class Advantages(NamedTuple):
    """How much better each solution is than what it is compared with.

    Attributes:
        values: [N], one for each solution, or [N, R], one for each response token.
        mixed_groups: [P] bool, groups in which self-rewards had a say.
    """

    values: Float[Tensor, " N"] | Float[Tensor, "N R"]
    mixed_groups: Bool[Tensor, " P"]

    def without(self, groups: Bool[Tensor, " P"]) -> "Advantages":
        """The same with values of 0 for some groups, in which self-rewards then have no say either.

        Args:
            groups: [P] bool: those groups.
        """
        rows = groups.repeat_interleave(len(self.values) // len(groups))
        rows = rows if self.values.ndim == 1 else rows[:, None]
        return Advantages(self.values.masked_fill(rows, 0.0), self.mixed_groups & ~groups)

    @classmethod
    def of(
        cls,
        estimates: Float[Tensor, "_ _"],
        rewards: Float[Tensor, "P G"],
        mixed_groups: Bool[Tensor, " P"] | None = None,
    ) -> "Advantages":
        """The record of what an estimator returned.

        Args:
            estimates: [P, G], or [P * G, R] with a value for each token.
            rewards: [P, G], which they were made of.
            mixed_groups: [P] bool; default: none.

        Raises:
            ValueError: the estimates have neither shape.
        """
        none = torch.zeros(len(rewards), dtype=torch.bool, device=rewards.device)
        mixed = none if mixed_groups is None else mixed_groups
        if estimates.shape == rewards.shape:
            return cls(estimates.flatten(), mixed)
        if estimates.ndim != 2 or len(estimates) != rewards.numel():
            raise ValueError(
                f"Advantages of the shape {tuple(estimates.shape)} fit neither groups {tuple(rewards.shape)} nor the "
                f"tokens of {rewards.numel()} solutions."
            )
        return cls(estimates, mixed)
