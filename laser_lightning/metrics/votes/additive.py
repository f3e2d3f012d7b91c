"""Rules by which every solution adds something to its answer, whatever the other solutions say."""

from abc import abstractmethod
from typing import Literal

from torch import Tensor

from laser_lightning.metrics.votes.candidates import Candidates
from laser_lightning.metrics.votes.rule import VoteRule
from laser_lightning.shapes import Int


class AdditiveRule(VoteRule):
    """The answer wins to which its solutions give most together, so that one may stop before all are drawn.

    Attributes:
        least: the least that a solution adds to its answer; below 0 where it may count against it.
        most: the most that it adds.
        unit: what a sum is: ``votes``, as observations of what the model answers; ``log_odds``, as evidence in nats
            that the answer is right.
    """

    least: float = 0.0
    most: float = 1.0
    unit: Literal["votes", "log_odds"] = "votes"

    @abstractmethod
    def votes(self, candidates: Candidates) -> Int[Tensor, " N"]:
        """What each solution adds to its answer, [N] int64 in units of 1 / ``ONE_VOTE``; of one without, anything."""

    def standings(self, candidates: Candidates) -> Int[Tensor, " N"]:
        """[N] int64, the sum over the solutions of each one's answer, in units of 1 / ``ONE_VOTE``."""
        return candidates.sum_by_answer(self.votes(candidates))
