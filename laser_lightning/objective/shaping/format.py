"""A reward for the form of a response."""

import math
import re

from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.shaping.shaper import RewardShaper
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class FormatReward(RewardShaper):
    """Adds to the reward of responses in which a pattern is found (the format reward of DeepSeek-R1, arXiv 2501.12948,
    and of many since).

    Args:
        pattern: regular expression that is looked for anywhere in a response, where a dot stands for line breaks too;
            ``^`` and ``$`` tie it to the beginning and the end, such as ``^<think>.*</think>\\s*<answer>.*</answer>$``.
        reward: what is added where it is found.
        penalty: what is taken away where it is not.
    """

    def __init__(self, pattern: str, reward: float = 0.1, penalty: float = 0.0) -> None:
        if not (math.isfinite(reward) and math.isfinite(penalty)):
            raise UserError(f"FormatReward (advantage.shaping): reward is {reward} and penalty {penalty}.")
        self.pattern, self.reward, self.penalty = compiled(pattern, "FormatReward"), reward, penalty

    def highest_reward(self, given: float | None) -> float | None:
        """With what it adds."""
        return None if given is None else given + max(self.reward, -self.penalty)

    def __call__(self, rewards: Float[Tensor, " N"], rollout: Rollout, context: StepContext) -> Float[Tensor, " N"]:
        """[N] rewards with that of the form (see ``RewardShaper``)."""
        found = [self.pattern.search(text) is not None for text in rollout.texts]
        return rewards + rewards.new_tensor([self.reward if one else -self.penalty for one in found])


def compiled(pattern: str, shaper: str) -> re.Pattern[str]:
    """A user's regular expression, where a dot stands for line breaks too.

    Args:
        pattern: as written.
        shaper: who uses it, for the message.

    Raises:
        UserError: it is none.
    """
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise UserError(
            f"{shaper} (advantage.shaping): pattern is {pattern!r}, which is no regular expression ({error})."
        ) from error
