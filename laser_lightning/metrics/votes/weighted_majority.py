"""The answer with the most self-reward."""

import torch
from torch import Tensor

from laser_lightning.metrics.votes.additive import AdditiveRule
from laser_lightning.metrics.votes.candidates import ONE_VOTE, Candidates
from laser_lightning.shapes import Float, Int


class WeightedMajority(AdditiveRule):
    """The answer with the highest sum of self-rewards clamped to [0, 1] (LaSeR, arXiv 2510.14943).

    Where all solutions of a problem that have an answer weigh 0, each counts one: the scores say that none is right,
    which is no evidence for one answer over another, and an answer has to be given.
    """

    name = "weighted_maj"

    def votes(self, candidates: Candidates) -> Int[Tensor, " N"]:
        """[N] int64, the clamped self-rewards."""
        return score_votes(candidates.self_rewards)

    def standings(self, candidates: Candidates) -> Int[Tensor, " N"]:
        """[N] int64, the votes of each one's answer, in units of 1 / ``ONE_VOTE``."""
        weights = self.votes(candidates) * candidates.has_answer
        no_evidence = candidates.sum_by_problem(weights) == 0
        return candidates.sum_by_answer(torch.where(no_evidence, ONE_VOTE, weights))


def score_votes(self_rewards: Float[Tensor, " N"]) -> Int[Tensor, " N"]:
    """[N] votes by self-rewards clamped to [0, 1], int64 in units of 1 / ``ONE_VOTE``."""
    return (self_rewards.clamp(0, 1) * ONE_VOTE).long()
