"""Groups whose rewards hardly differ are left out (RLPR's filter)."""

from typing import Any

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.shaping.shaper import RewardShaper
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Bool, Float


class DropLowSpread(RewardShaper):
    """Gives groups whose rewards have a small standard deviation advantages of 0, whatever the estimator.

    RLPR (arXiv 2506.18254, standard deviation filtering): rewards that are real numbers are never all equal, and the
    noise of groups that are too easy or too hard would be scaled up to whole advantages. The threshold is beta times a
    moving average of the groups' standard deviations. From the authors' code: beta 0.5, a decay of 0.99, no group
    dropped in the first 10 steps, and a plain mean over those steps for a beginning (there, over the sixth to the
    tenth). Other groups are not drawn in the place of dropped ones, as they are there. Rewards stay as they
    are: an estimator that looks at the whole round counts those of dropped groups too.

    Args:
        beta: groups below this share of the average are dropped.
        decay: of the average, for each step.
        first_steps: steps in which no group is dropped, and whose plain mean begins the average.
    """

    def __init__(self, beta: float = 0.5, decay: float = 0.99, first_steps: int = 10) -> None:
        if beta < 0 or not 0 <= decay <= 1 or first_steps < 1:
            raise UserError(
                f"DropLowSpread (advantage.shaping): beta is {beta}, decay {decay} and first_steps {first_steps}; beta "
                "must be 0 or more, decay between 0 and 1, and first_steps at least 1."
            )
        self.beta, self.decay, self.first_steps = beta, decay, first_steps
        self._steps, self._average = 0, 0.0

    def __call__(self, rewards: Float[Tensor, " N"], rollout: Rollout, context: StepContext) -> Float[Tensor, " N"]:
        """[N] the rewards as they are (see ``RewardShaper``)."""
        return rewards

    def highest_reward(self, given: float | None) -> float | None:
        """What is given."""
        return given

    def dropped_groups(self, rollout: Rollout, context: StepContext) -> Bool[Tensor, " P"] | None:
        """[P] bool: groups with a small spread, which is that of rewards before all shapers; None in first steps."""
        return None if self._steps < self.first_steps else _spreads(rollout) < self.beta * self._average

    def learn(self, rollout: Rollout, context: StepContext) -> None:
        """Take the step's spreads into the average."""
        spreads = _spreads(rollout).double()
        total, number = context.ranks.sum(torch.stack((spreads.sum(), spreads.new_tensor(len(spreads))))).tolist()
        self._steps += 1
        share = 1 / self._steps if self._steps <= self.first_steps else 1 - self.decay
        self._average += share * (total / number - self._average)

    def state_dict(self) -> dict[str, Any]:
        """The average and its number of steps."""
        return {"steps": self._steps, "average": self._average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these."""
        self._steps, self._average = state.get("steps", 0), state.get("average", 0.0)


def _spreads(rollout: Rollout) -> Float[Tensor, " P"]:
    return rollout.grouped(rollout.policy_rewards).std(dim=1)
