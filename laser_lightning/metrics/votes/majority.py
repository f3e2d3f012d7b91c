"""The most frequent answer."""

import torch
from torch import Tensor

from laser_lightning.metrics.votes.additive import AdditiveRule
from laser_lightning.metrics.votes.candidates import ONE_VOTE, Candidates
from laser_lightning.shapes import Int


class Majority(AdditiveRule):
    """The answer that most solutions give (self-consistency, arXiv 2203.11171)."""

    name = "maj"
    uses_scores = False

    def votes(self, candidates: Candidates) -> Int[Tensor, " N"]:
        """[N] int64, one vote each."""
        return torch.full_like(candidates.answer_ids, ONE_VOTE)

    def standings(self, candidates: Candidates) -> Int[Tensor, " N"]:
        """[N] int64, how many solutions gave each one's answer."""
        return candidates.count_by_answer()
