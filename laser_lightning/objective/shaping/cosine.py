"""The cosine reward: by correctness and length together."""

import math

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.objective.shaping.shaper import RewardShaper
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class CosineReward(RewardShaper):
    """Puts a reward of its own in the place of right and wrong, which goes along half a cosine from one value for the
    shortest response to another for the longest (Yeo et al., arXiv 2502.03373).

    b + (a - b) / 2 (1 + cos(pi L / L_max)), as in the authors' code; there responses close to the limit count as longer
    than it, here those that were cut. It replaces what shapers in front of it made; what comes behind is added, such as
    the paper's penalty of repetition (``RepetitionPenalty``).

    Args:
        correct_short: a of correct solutions, for those of no length.
        correct_long: b of correct solutions, for those as long as sampling.max_response_tokens.
        wrong_short: a of wrong solutions; as the lowest of all it makes giving up early the worst.
        wrong_long: b of wrong solutions.
        truncated: reward of responses that were cut.
    """

    def __init__(
        self,
        correct_short: float = 1.0,
        correct_long: float = 0.0,
        wrong_short: float = -1.0,
        wrong_long: float = 0.0,
        truncated: float = -1.0,
    ) -> None:
        values = (correct_short, correct_long, wrong_short, wrong_long, truncated)
        if not all(map(math.isfinite, values)):
            raise UserError(f"CosineReward (advantage.shaping): its rewards are {values}, and must be finite.")
        self.correct, self.wrong, self.truncated = (correct_short, correct_long), (wrong_short, wrong_long), truncated

    def highest_reward(self, given: float | None) -> float | None:
        """The highest of its own rewards, whatever is given."""
        return max(*self.correct, *self.wrong, self.truncated)

    def __call__(self, rewards: Float[Tensor, " N"], rollout: Rollout, context: StepContext) -> Float[Tensor, " N"]:
        """[N] rewards by length (see ``RewardShaper``)."""
        wave = (1 + torch.cos(math.pi * rollout.rollouts.response_lengths / context.max_response_tokens)) / 2
        right, wrong = (long + (short - long) * wave for short, long in (self.correct, self.wrong))
        shaped = right.where(rollout.rewards > CORRECT_THRESHOLD, wrong)
        return shaped.where(rollout.rollouts.finished, self.truncated).to(rewards.dtype)
