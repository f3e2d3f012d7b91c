"""The solution with the highest self-reward."""

from typing import Literal

import torch
from torch import Tensor

from laser_lightning.metrics.votes.candidates import Candidates
from laser_lightning.metrics.votes.rule import VoteRule
from laser_lightning.shapes import Float


class BestScored(VoteRule):
    """The solution with the highest self-reward, not clamped (best of k), among those that have an answer.

    A solution without an answer wins only where none of its problem has one: somebody who takes the best solution for
    its answer cannot use it, however well it scores.
    """

    name = "best_of"
    chooses: Literal["answer", "solution"] = "solution"

    def standings(self, candidates: Candidates) -> Float[Tensor, " N"]:
        """[N], r_s of each, -inf for one without an answer where another of its problem has one."""
        answered = candidates.has_answer
        may_win = answered | (candidates.sum_by_problem(answered.long()) == 0)
        # A score of -inf with an answer still stands above all without one.
        scores = candidates.self_rewards.clamp(min=torch.finfo(candidates.self_rewards.dtype).min)
        return scores.where(may_win, -torch.inf)
