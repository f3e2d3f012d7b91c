"""How well the self-reward tells apart the solutions of one problem, whatever it knows of the problem's difficulty."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from laser_lightning.metrics.base import ExactMetric
from laser_lightning.metrics.groups import distinct_rows, sort_rows, starts_run
from laser_lightning.metrics.kinds import check_kind_ids, check_kinds
from laser_lightning.shapes import Bool, Float, Int, Real


class PairCounts(NamedTuple):
    """The pairs of a correct and an incorrect solution of the same problem, of each of P problems.

    Attributes:
        half_wins: [P] int64: 2 for each pair whose correct solution scores higher, 1 for each that ties.
        pairs: [P] int64, 0 for a problem whose solutions are all correct or all incorrect.
    """

    half_wins: Int[Tensor, " P"]
    pairs: Int[Tensor, " P"]

    def auroc(self) -> Float[Tensor, ""]:
        """The AUROC over the pairs of all problems; NaN (undefined) where there is none."""
        return self.half_wins.sum() / (2 * self.pairs.sum())

    def mean_auroc(self) -> Float[Tensor, ""]:
        """The mean of the AUROC of each problem that has a pair; NaN (undefined) where none has."""
        mixed = self.pairs > 0
        return (self.half_wins[mixed] / (2 * self.pairs[mixed])).mean()

    def mixed_problems(self) -> Int[Tensor, ""]:
        """Number of problems that have a pair, int64."""
        return (self.pairs > 0).sum()


def pair_counts(
    problem: Int[Tensor, " N"], scores: Real[Tensor, " N"], correct: Bool[Tensor, " N"], problems: int
) -> PairCounts:
    """Count the pairs of a correct and an incorrect solution within each problem, exactly.

    Args:
        problem: [N] int64, number of each solution's problem, below ``problems``; in any order.
        scores: [N], real, without NaN.
        correct: [N], bool.
        problems: number of problems, P.
    """
    order = sort_rows(problem, scores)
    starts = starts_run(problem[order], scores[order])
    level, owner = starts.cumsum(0) - 1, problem[order][starts]  # solutions of a problem with equal scores are a level
    nothing, nowhere = torch.zeros_like(owner), owner.new_zeros(problems)
    right = nothing.index_add(0, level, correct[order].long())
    wrong = nothing.index_add(0, level, (~correct[order]).long())
    of_problem = nowhere.index_add(0, owner, wrong)
    in_problems_before = of_problem.cumsum(0) - of_problem
    wrong_below = wrong.cumsum(0) - wrong - in_problems_before[owner]
    half_wins = nowhere.index_add(0, owner, right * (2 * wrong_below + wrong))
    return PairCounts(half_wins, nowhere.index_add(0, owner, right) * of_problem)


class WithinProblems(ExactMetric):
    """AUROC of the self-reward within problems: over pairs of a correct and an incorrect solution of the same problem.

    A score that only knows which problems are hard is at 0.5, whatever its AUROC over all solutions.

    ``compute`` returns a dict of scalars:

    - ``auroc_within``: share of all such pairs whose correct solution scores higher, ties count one half; NaN if no
      problem has both.
    - ``auroc_within_mean``: the mean of that share over the problems that have both; NaN likewise.
    - ``mixed_problems``: number of problems that have both, int64.
    - each of them as ``<name>/<kind>``, of the problems of a kind.

    Solutions of one problem may lie on several ranks. Of rows with the same problem id and sample index the first
    counts, and pairs are counted as integers: the values are the same under any split.

    Args:
        kinds: names of the kinds that are reported apart; a kind's id is its position here.
    """

    def __init__(self, kinds: Sequence[str] = ()) -> None:
        super().__init__()
        if kinds:
            check_kinds(kinds)
        self.kinds = list(kinds)
        self.add_list("problem_ids", torch.int64)
        self.add_list("sample_indices", torch.int64)
        self.add_list("self_rewards", torch.float32)
        # int64 rather than bool: not every backend gathers booleans.
        self.add_list("correct", torch.int64)
        self.add_list("kind_ids", torch.int64)

    def update(
        self,
        problem_ids: Int[Tensor, " N"],
        sample_indices: Int[Tensor, " N"],
        self_rewards: Real[Tensor, " N"],
        rewards: Real[Tensor, " N"],
        kind_ids: Int[Tensor, " N"] | None = None,
    ) -> None:
        """Add solutions, in any order.

        Args:
            problem_ids: [N], integers that name the problem within the data set, the same on all ranks.
            sample_indices: [N], integers: number of each solution within its problem.
            self_rewards: [N], scores as they are, not clamped.
            rewards: [N], the verifier's rewards; a solution is correct if its reward is above 0.5.
            kind_ids: [N], integers: position of the problem's kind in ``kinds``; needed where there are kinds.

        Raises:
            ValueError: if the shapes differ, ids are not integers or not in ``kinds``, or an entry is NaN.
        """
        if (kind_ids is None) is bool(self.kinds):
            raise ValueError(
                f"WithinProblems has the kinds {self.kinds}: give kind_ids to update if there are any, and else none."
            )
        kind_ids = torch.zeros_like(problem_ids) if kind_ids is None else kind_ids
        self.check_columns(
            problem_ids=problem_ids,
            sample_indices=sample_indices,
            self_rewards=self_rewards,
            rewards=rewards,
            kind_ids=kind_ids,
        )
        self.check_integers(problem_ids=problem_ids, sample_indices=sample_indices, kind_ids=kind_ids)
        self.check_numbers(self_rewards=self_rewards, rewards=rewards)
        if self.kinds:
            check_kind_ids(kind_ids, len(self.kinds))
        self.append("problem_ids", problem_ids)
        self.append("sample_indices", sample_indices)
        self.append("self_rewards", self_rewards)
        self.append("correct", rewards > 0.5)
        self.append("kind_ids", kind_ids)

    def compute(self) -> dict[str, Real[Tensor, ""]]:
        """The values named above, over all ranks."""
        problem_ids = self.held("problem_ids")
        order = distinct_rows(problem_ids, self.held("sample_indices"))
        ids, problem = torch.unique_consecutive(problem_ids[order], return_inverse=True)
        counts = pair_counts(problem, self.held("self_rewards")[order], self.held("correct")[order].bool(), len(ids))
        kind = torch.zeros_like(ids)
        kind[problem] = self.held("kind_ids")[order]
        values = _values(counts)
        for number, name in enumerate(self.kinds):
            of_kind = _values(PairCounts(counts.half_wins[kind == number], counts.pairs[kind == number]))
            values |= {f"{metric}/{name}": value for metric, value in of_kind.items()}
        return values


def _values(counts: PairCounts) -> dict[str, Tensor]:
    return {
        "auroc_within": counts.auroc(),
        "auroc_within_mean": counts.mean_auroc(),
        "mixed_problems": counts.mixed_problems(),
    }
