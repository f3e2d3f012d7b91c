"""One answer from several solutions to a problem: by vote, or by the highest self-reward."""

from typing import NamedTuple

import torch
from torch import Tensor

from laser_lightning.metrics.groups import GroupMetric, SampleGroups, sort_rows, starts_run

# Votes are integers: their sum does not depend on the order of addition, so ties are exact on every device.
ONE_VOTE = 2**40


class AnswerClasses(NamedTuple):
    """Solutions of one problem with the same answer form a class; M solutions with an answer, in C classes.

    Attributes:
        rows: [M], which of the N solutions these are, sorted by class.
        row_class: [M], the class of each.
        problem: [C], position in ``problem_ids`` of each class's problem.
    """

    rows: Tensor
    row_class: Tensor
    problem: Tensor


def answer_classes(groups: SampleGroups) -> AnswerClasses:
    """The classes of equal answers; a solution without an answer is in none."""
    rows = (groups.answer_ids >= 0).nonzero().squeeze(1)
    rows = rows[sort_rows(groups.problem[rows], groups.answer_ids[rows])]
    new_class = starts_run(groups.problem[rows], groups.answer_ids[rows])
    return AnswerClasses(rows, new_class.cumsum(0) - 1, groups.problem[rows[new_class]])


def winning_classes(groups: SampleGroups, classes: AnswerClasses, votes: Tensor) -> Tensor:
    """[C] bool: the classes with the most votes of their problem; several where they tie.

    Args:
        groups: the solutions.
        classes: of their answers.
        votes: [N], int64, not negative; the votes that each solution gives to its answer.
    """
    no_votes = votes.new_zeros(len(classes.problem))
    class_votes = no_votes.index_add(0, classes.row_class, votes[classes.rows])
    most = votes.new_zeros(len(groups.problem_ids)).scatter_reduce(0, classes.problem, class_votes, "amax")
    return class_votes == most[classes.problem]


def vote(groups: SampleGroups, votes: Tensor) -> Tensor:
    """Correctness of the answer with the most votes.

    A class of equal answers is as correct as the mean of its members. If several classes have the most votes, the
    value is the mean over them: the expectation of breaking the tie at random. A solution without an answer has no
    vote; a problem without any answer is 0.

    Args:
        groups: the solutions.
        votes: [N], int64, not negative; the votes that each solution gives to its answer.

    Returns:
        [P], float32 in [0, 1].
    """
    classes = answer_classes(groups)
    wins = winning_classes(groups, classes, votes)
    class_size = classes.row_class.bincount(minlength=len(classes.problem))
    correct = votes.new_zeros(len(classes.problem)).index_add(0, classes.row_class, groups.correct[classes.rows].long())
    nothing = torch.zeros_like(groups.problem_ids, dtype=torch.float32)
    winners = nothing.index_add(0, classes.problem, wins.float())
    correctness = nothing.index_add(0, classes.problem, correct / class_size * wins)
    return correctness / winners.clamp(min=1)


def winners(groups: SampleGroups, votes: Tensor) -> Tensor:
    """[N] bool: the solutions whose answer has the most votes (see ``vote``); several answers where they tie."""
    classes = answer_classes(groups)
    chosen = torch.zeros_like(groups.correct)
    chosen[classes.rows] = winning_classes(groups, classes, votes)[classes.row_class]
    return chosen


def equal_votes(groups: SampleGroups) -> Tensor:
    """[N] votes of a plain majority: one each."""
    return torch.full_like(groups.answer_ids, ONE_VOTE)


def score_votes(self_rewards: Tensor) -> Tensor:
    """[N] votes by self-rewards clamped to [0, 1]."""
    return (self_rewards.clamp(0, 1) * ONE_VOTE).long()


def weighted_votes(groups: SampleGroups) -> Tensor:
    """[N] votes by self-rewards clamped to [0, 1]; one each where a problem's answers all weigh 0."""
    weights = score_votes(groups.self_rewards) * (groups.answer_ids >= 0)
    no_evidence = groups.sum(weights) == 0
    return torch.where(no_evidence[groups.problem], ONE_VOTE, weights)


def best_scored(groups: SampleGroups) -> Tensor:
    """[N] bool: the solutions with the highest self-reward of their problem, not clamped; several where they tie."""
    lowest = groups.self_rewards.new_full((len(groups.problem_ids),), -torch.inf)
    highest = lowest.scatter_reduce(0, groups.problem, groups.self_rewards, "amax")
    return groups.self_rewards == highest[groups.problem]


class _FirstK(GroupMetric):
    """Base of metrics that look at the first ``k`` solutions of a problem."""

    def __init__(self, k: int | None = None) -> None:
        super().__init__()
        if k is not None:
            self.check_k(k)
        self.k = k

    def _used(self, groups: SampleGroups) -> SampleGroups:
        return groups if self.k is None else groups.first(self.k)


class MajorityVote(_FirstK):
    """Correctness of the most frequent answer (maj@k), averaged over problems; NaN without data.

    Ties count as the mean over the tied answers, a problem without any answer as 0; see ``vote``.

    Args:
        k: vote among the first ``k`` solutions of a problem by sample index; all of them if null.
    """

    def problem_values(self, groups: SampleGroups) -> Tensor:
        """maj@k of each problem, [P]; refuses a problem with fewer than ``k`` solutions."""
        groups = self._used(groups)
        return vote(groups, equal_votes(groups))


class WeightedMajorityVote(_FirstK):
    """Majority vote weighted by the self-reward clamped to [0, 1] (weighted maj@k); NaN without data.

    Where all solutions of a problem that have an answer weigh 0, the vote is a plain majority: the scores say
    that none is right, which is no evidence for one answer over another, and an answer has to be given. Ties
    count as the mean over the tied answers, a problem without any answer as 0; see ``vote``.

    Args:
        k: vote among the first ``k`` solutions of a problem by sample index; all of them if null.
    """

    def problem_values(self, groups: SampleGroups) -> Tensor:
        """Weighted maj@k of each problem, [P]; refuses a problem with fewer than ``k`` solutions."""
        groups = self._used(groups)
        return vote(groups, weighted_votes(groups))


class BestOfK(_FirstK):
    """Correctness of the solution with the highest self-reward (best-of-k); NaN without data.

    The mean counts of solutions that share the highest self-reward, and then the mean over problems.
    Self-rewards are compared as they are, not clamped.

    Args:
        k: choose among the first ``k`` solutions of a problem by sample index; all of them if null.
    """

    def problem_values(self, groups: SampleGroups) -> Tensor:
        """best-of-k of each problem, [P]; refuses a problem with fewer than ``k`` solutions."""
        groups = self._used(groups)
        best = best_scored(groups)
        return groups.sum((best & groups.correct).long()) / groups.sum(best.long())
