"""How good the answers are that vote rules choose: torchmetrics over several solutions per problem."""

from torch import Tensor

from laser_lightning.metrics.groups import GroupMetric, SampleGroups
from laser_lightning.metrics.votes import BestScored, Majority, VoteRule, WeightedMajority
from laser_lightning.metrics.votes.accuracy import problem_accuracy
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
