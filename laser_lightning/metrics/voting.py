"""One answer from several solutions to a problem: by vote, or by the highest self-reward."""

import torch
from torch import Tensor

from laser_lightning.metrics.groups import GroupMetric, SampleGroups, sort_rows, starts_run

# Votes are integers: their sum does not depend on the order of addition, so ties are exact on every device.
ONE_VOTE = 2**40


def vote(groups: SampleGroups, votes: Tensor) -> Tensor:
    """Correctness of the answer with the most votes.

    Solutions of one problem with the same answer form a class, as correct as the mean of its members. If
    several classes have the most votes, the value is the mean over them: the expectation of breaking the tie
    at random. A solution without an answer has no vote; a problem without any answer is 0.

    Args:
        groups: the solutions.
        votes: [N], int64, not negative; the votes that each solution gives to its answer.

    Returns:
        [P], float32 in [0, 1].
    """
    rows = (groups.answer_ids >= 0).nonzero().squeeze(1)
    rows = rows[sort_rows(groups.problem[rows], groups.answer_ids[rows])]
    new_class = starts_run(groups.problem[rows], groups.answer_ids[rows])
    row_class = new_class.cumsum(0) - 1
    class_problem = groups.problem[rows[new_class]]
    class_size = row_class.bincount(minlength=len(class_problem))

    no_votes = votes.new_zeros(len(class_problem))
    class_votes = no_votes.index_add(0, row_class, votes[rows])
    class_correctness = no_votes.index_add(0, row_class, groups.correct[rows].long()) / class_size

    most = votes.new_zeros(len(groups.problem_ids)).scatter_reduce(0, class_problem, class_votes, "amax")
    wins = class_votes == most[class_problem]
    nothing = torch.zeros_like(groups.problem_ids, dtype=torch.float32)
    winners = nothing.index_add(0, class_problem, wins.float())
    correctness = nothing.index_add(0, class_problem, class_correctness * wins)
    return correctness / winners.clamp(min=1)


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
        return vote(groups, torch.full_like(groups.answer_ids, ONE_VOTE))


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
        weights = (groups.self_rewards.clamp(0, 1) * ONE_VOTE).long() * (groups.answer_ids >= 0)
        no_evidence = groups.sum(weights) == 0
        return vote(groups, torch.where(no_evidence[groups.problem], ONE_VOTE, weights))


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
        lowest = groups.self_rewards.new_full((len(groups.problem_ids),), -torch.inf)
        highest = lowest.scatter_reduce(0, groups.problem, groups.self_rewards, "amax")
        best = groups.self_rewards == highest[groups.problem]
        return groups.sum((best & groups.correct).long()) / groups.sum(best.long())
