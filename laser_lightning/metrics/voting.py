"""How good the answers are that vote rules choose: torchmetrics over several solutions per problem."""

import torch
from torch import Tensor

from laser_lightning.metrics.groups import GroupMetric, SampleGroups
from laser_lightning.metrics.votes import BestScored, Candidates, Majority, VoteRule, WeightedMajority
from laser_lightning.metrics.votes.candidates import ONE_VOTE
from laser_lightning.metrics.votes.weighted_majority import score_votes
from laser_lightning.shapes import Float

__all__ = [
    "ONE_VOTE",
    "BestOfK",
    "MajorityVote",
    "VoteAccuracy",
    "WeightedMajorityVote",
    "problem_accuracy",
    "score_votes",
]


def problem_accuracy(rule: VoteRule, groups: SampleGroups) -> Float[Tensor, " P"]:
    """Correctness of what a rule chooses, for each problem.

    Of an answer: a class of equal answers is as correct as the mean of its members. If several win, the value is the
    mean over them: the expectation of breaking the tie at random. A problem without any answer is 0. Of a solution: the
    mean over the solutions that win.

    Args:
        rule: chooses.
        groups: the solutions of P problems.

    Returns:
        [P], float32 in [0, 1].
    """
    candidates = Candidates.of(groups)
    won = rule.winners(candidates)
    if rule.chooses == "solution":
        return groups.sum((won & groups.correct).long()) / groups.sum(won.long())
    rows, row_class, problem = candidates.classes
    wins = torch.zeros_like(problem, dtype=torch.bool)
    wins[row_class] = won[rows]
    class_size = row_class.bincount(minlength=len(problem))
    correct = torch.zeros_like(problem).index_add(0, row_class, groups.correct[rows].long())
    nothing = torch.zeros_like(groups.problem_ids, dtype=torch.float32)
    winners = nothing.index_add(0, problem, wins.float())
    correctness = nothing.index_add(0, problem, correct / class_size * wins)
    return correctness / winners.clamp(min=1)


class VoteAccuracy(GroupMetric):
    """Correctness of what a rule chooses among k solutions, averaged over problems; NaN without data.

    Ties count as the mean over what ties, a problem without any answer as 0; see ``problem_accuracy``.

    Args:
        rule: chooses.
        k: among the first ``k`` solutions of a problem by sample index; all of them if null.
    """

    def __init__(self, rule: VoteRule, k: int | None = None) -> None:
        super().__init__()
        if k is not None:
            self.check_k(k)
        self.rule, self.k = rule, k

    def problem_values(self, groups: SampleGroups) -> Float[Tensor, " P"]:
        """The correctness of each problem, [P]; refuses a problem with fewer than ``k`` solutions."""
        return problem_accuracy(self.rule, groups if self.k is None else groups.first(self.k))


class MajorityVote(VoteAccuracy):
    """Correctness of the most frequent answer (maj@k), averaged over problems; NaN without data.

    Args:
        k: vote among the first ``k`` solutions of a problem by sample index; all of them if null.
    """

    def __init__(self, k: int | None = None) -> None:
        super().__init__(Majority(), k)


class WeightedMajorityVote(VoteAccuracy):
    """Majority vote weighted by the self-reward clamped to [0, 1] (weighted maj@k); NaN without data.

    Where all solutions of a problem that have an answer weigh 0, the vote is a plain majority.

    Args:
        k: vote among the first ``k`` solutions of a problem by sample index; all of them if null.
    """

    def __init__(self, k: int | None = None) -> None:
        super().__init__(WeightedMajority(), k)


class BestOfK(VoteAccuracy):
    """Correctness of the solution with the highest self-reward (best-of-k); NaN without data.

    A solution without an answer is left out, unless its problem has no solution with one.
    The mean counts of solutions that share the highest self-reward, and then the mean over problems.
    Self-rewards are compared as they are, not clamped.

    Args:
        k: choose among the first ``k`` solutions of a problem by sample index; all of them if null.
    """

    def __init__(self, k: int | None = None) -> None:
        super().__init__(BestScored(), k)
