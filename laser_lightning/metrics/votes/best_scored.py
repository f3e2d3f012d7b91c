"""The solution with the highest self-reward."""

from typing import Literal

from torch import Tensor

from laser_lightning.metrics.votes.candidates import Candidates
from laser_lightning.metrics.votes.rule import VoteRule
from laser_lightning.shapes import Float


class BestScored(VoteRule):
    """The solution with the highest self-reward, not clamped (best of k), whether it has an answer or not."""

    name = "best_of"
    chooses: Literal["answer", "solution"] = "solution"

    def standings(self, candidates: Candidates) -> Float[Tensor, " N"]:
        """[N], r_s of each."""
        return candidates.self_rewards
