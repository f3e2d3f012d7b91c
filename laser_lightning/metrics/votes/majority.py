"""The most frequent answer."""

from torch import Tensor

from laser_lightning.metrics.votes.candidates import Candidates
from laser_lightning.metrics.votes.rule import VoteRule
from laser_lightning.shapes import Int


class Majority(VoteRule):
    """The answer that most solutions give (self-consistency, arXiv 2203.11171)."""

    name = "maj"

    def standings(self, candidates: Candidates) -> Int[Tensor, " N"]:
        """[N] int64, how many solutions gave each one's answer."""
        return candidates.count_by_answer()
