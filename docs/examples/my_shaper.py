"""A bonus for correct solutions that are shorter than those of their group, from some step on."""

from torch import Tensor

from laser_lightning import RewardShaper, StepContext
from laser_lightning.records.rollout import Rollout


class BrevityBonus(RewardShaper):
    """Adds a bonus to the reward of correct solutions with fewer tokens than the mean of their group.

    Args:
        bonus: what is added.
        after_steps: optimizer steps without it.
    """

    def __init__(self, bonus: float = 0.1, after_steps: int = 0) -> None:
        self.bonus, self.after_steps = bonus, after_steps

    def __call__(self, rewards: Tensor, rollout: Rollout, context: StepContext) -> Tensor:
        if context.step < self.after_steps:
            return rewards
        lengths = rollout.grouped(rollout.rollouts.response_lengths).float()
        shorter = (lengths < lengths.mean(dim=1, keepdim=True)).flatten()
        return rewards + self.bonus * (shorter & (rollout.rewards > 0.5))
