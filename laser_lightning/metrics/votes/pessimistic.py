"""The answer that scores high in the mean, less the more uncertain that mean is."""

import math

from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.metrics.votes.candidates import Candidates
from laser_lightning.metrics.votes.rule import VoteRule
from laser_lightning.shapes import Float


class PessimisticVote(VoteRule):
    r"""Pessimistic verification: answers that few verdicts speak of are trusted less (Heimdall, arXiv 2504.10337).

    Each answer a is an arm of a bandit, and the one with the highest pessimistic score wins,

        r(a) - alpha * ln(N M) / (N_a M + 1),

    where r(a) is the mean score of the answer's solutions, clamped to [0, 1], N M counts the verdicts on all solutions
    of the problem and N_a M those on the answer's: a self-reward is one verdict (M = 1), and a solution that was
    verified M times has M. That the rule compares mean scores of answers less a penalty that shrinks with N_a was read
    in summaries of the paper; the penalty's exact form and the paper's alpha could not be looked up in the paper
    itself, so the default of alpha is ours.

    Args:
        alpha: how much uncertainty costs; 0 is the mean-score vote.
    """

    name = "pessimistic"

    def __init__(self, alpha: float = 0.1) -> None:
        if not (math.isfinite(alpha) and alpha >= 0):
            raise UserError(f"alpha of PessimisticVote is {alpha}, and must be a number from 0 on.")
        self.alpha = alpha

    def standings(self, candidates: Candidates) -> Float[Tensor, " N"]:
        """[N] float64, the pessimistic score of each one's answer."""
        verdicts = (~candidates.scores.isnan()).sum(dim=1)
        of_problem = candidates.sum_by_problem(verdicts).clamp(min=1)
        of_answer = candidates.sum_by_answer(verdicts)
        means = candidates.mean_by_answer(candidates.self_rewards.clamp(0, 1))
        return means - self.alpha * of_problem.double().log() / (of_answer + 1)
