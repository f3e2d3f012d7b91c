"""The answer whose solutions have the highest mean score."""

from torch import Tensor

from laser_lightning import Candidates, VoteRule
from laser_lightning.errors import UserError


class MeanScore(VoteRule):
    """The answer with the highest mean self-reward, clamped to [0, 1], of its solutions.

    Args:
        least: answers that fewer solutions give lose against those that so many give.
    """

    name = "mean_score"

    def __init__(self, least: int = 1) -> None:
        if least < 1:
            raise UserError(f"least is {least}, and must be at least 1.")
        self.least = least

    def standings(self, candidates: Candidates) -> Tensor:
        means = candidates.mean_by_answer(candidates.self_rewards.clamp(0, 1))
        return means + 2 * (candidates.count_by_answer() >= self.least)
