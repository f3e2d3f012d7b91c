"""The length reward of Kimi k1.5: shorter than the others of the group is better."""

import math

from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.objective.shaping.shaper import RewardShaper
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class KimiLengthReward(RewardShaper):
    """Adds, by the place of a response's length between the shortest and the longest of its group, up to half a reward
    (Kimi k1.5, arXiv 2501.12599, section 2.3.3).

    lambda = 1/2 - (L - L_min) / (L_max - L_min) for correct solutions, min(0, lambda) for wrong ones; nothing where all
    of a group are of one length. The paper adds it with a weight that it does not name, and after a warm-up, since it
    slows training down at first.

    Args:
        weight: what lambda is multiplied by.
        after_steps: optimizer steps without it.
    """

    def __init__(self, weight: float = 1.0, after_steps: int = 0) -> None:
        if not (weight > 0 and math.isfinite(weight)) or after_steps < 0:
            raise UserError(
                f"KimiLengthReward (advantage.shaping): weight is {weight} and after_steps {after_steps}; weight must "
                "be above 0, and after_steps 0 or more."
            )
        self.weight, self.after_steps = weight, after_steps

    def highest_reward(self, given: float | None) -> float | None:
        """With half its weight, which the shortest correct solutions get once it has begun."""
        return None if given is None else given + self.weight / 2

    def __call__(self, rewards: Float[Tensor, " N"], rollout: Rollout, context: StepContext) -> Float[Tensor, " N"]:
        """[N] rewards with that of length (see ``RewardShaper``)."""
        if context.step < self.after_steps:
            return rewards
        lengths = rollout.grouped(rollout.rollouts.response_lengths).to(rewards.dtype)
        shortest, longest = lengths.aminmax(dim=1, keepdim=True)
        place = 0.5 - (lengths - shortest) / (longest - shortest).clamp(min=1)
        place = place.where(longest > shortest, 0.0).flatten()
        return rewards + self.weight * place.where(rollout.rewards > CORRECT_THRESHOLD, place.clamp(max=0))
