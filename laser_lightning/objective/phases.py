"""The three phases of a LaSeR run."""

from dataclasses import dataclass
from enum import IntEnum

from laser_lightning.errors import UserError


class Phase(IntEnum):
    """What trains: the values are ordered and logged as ``train/phase``."""

    REASONING = 0
    """Policy loss alone."""
    SELF_REWARDING = 1
    """Policy loss and self-rewarding loss."""
    INTEGRATED = 2
    """Both losses, and self-rewards mixed into the advantages."""


@dataclass(frozen=True)
class Phases:
    """When each phase begins, in optimizer steps.

    Args:
        reasoning_steps: steps of the reasoning warm-up, with the policy loss alone (paper: 200 for base models).
        self_reward_steps: steps after that with the self-rewarding loss, before self-rewards are mixed into the
            advantages (paper: 200).
    """

    reasoning_steps: int = 0
    self_reward_steps: int = 0

    def __post_init__(self) -> None:
        if self.reasoning_steps < 0 or self.self_reward_steps < 0:
            raise UserError("phases.reasoning_steps and phases.self_reward_steps must be 0 or more.")

    def at(self, step: int) -> Phase:
        """The phase of optimizer step ``step``, counted from 0."""
        if step < self.reasoning_steps:
            return Phase.REASONING
        if step < self.reasoning_steps + self.self_reward_steps:
            return Phase.SELF_REWARDING
        return Phase.INTEGRATED
