"""Several sampled solutions per problem, regrouped by problem, and the base of the metrics over them."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from laser_lightning.metrics.base import ExactMetric
from laser_lightning.shapes import Bool, Float, Int, Real, Shaped


def sort_rows(major: Int[Tensor, " N"], minor: Real[Tensor, " N"]) -> Int[Tensor, " N"]:
    """The order [N] that sorts rows by ``major`` and then by ``minor``, stable."""
    order = minor.argsort(stable=True)
    return order[major[order].argsort(stable=True)]


def starts_run(major: Int[Tensor, " N"], minor: Real[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """Whether each row differs from the one before it in either column, [N] bool; the first row does."""
    starts = torch.ones_like(major, dtype=torch.bool)
    starts[1:] = (major[1:] != major[:-1]) | (minor[1:] != minor[:-1])
    return starts


def distinct_rows(problem_ids: Int[Tensor, " N"], sample_indices: Int[Tensor, " N"]) -> Int[Tensor, " M"]:
    """The order [M] that sorts rows by problem and sample; of rows with the same of both the first counts."""
    order = sort_rows(problem_ids, sample_indices)
    return order[starts_run(problem_ids[order], sample_indices[order])]


@dataclass(frozen=True)
class SampleGroups:
    """P problems with N sampled solutions in all, sorted by problem id and then by sample index.

    Attributes:
        problem_ids: [P], ascending, int64.
        sizes: [P], solutions of each problem, int64.
        problem: [N], position in ``problem_ids`` of each solution's problem.
        rewards: [N], float32.
        correct: [N], bool: whether the reward is above 0.5.
        answer_ids: [N], int64, -1 for no answer.
        self_rewards: [N], float32, not clamped.
        finished: [N], bool: whether the response ended by itself.
        scores: [N, S], float32, all scores of each solution, NaN for absent ones; [N, 1] where that is r_s alone.
    """

    problem_ids: Int[Tensor, " P"]
    sizes: Int[Tensor, " P"]
    problem: Int[Tensor, " N"]
    rewards: Float[Tensor, " N"]
    correct: Bool[Tensor, " N"]
    answer_ids: Int[Tensor, " N"]
    self_rewards: Float[Tensor, " N"]
    finished: Bool[Tensor, " N"]
    scores: Float[Tensor, "N S"]

    @classmethod
    def regroup(
        cls,
        problem_ids: Int[Tensor, " N"],
        sample_indices: Int[Tensor, " N"],
        rewards: Float[Tensor, " N"],
        answer_ids: Int[Tensor, " N"],
        self_rewards: Float[Tensor, " N"],
        finished: Shaped[Tensor, " N"] | None = None,
        scores: Float[Tensor, "N S"] | None = None,
    ) -> Self:
        """Group rows [N] in any order; of rows with the same problem id and sample index the first counts.

        All are finished where ``finished`` does not say otherwise, and have one score, r_s, without ``scores``.
        """
        finished = torch.ones_like(problem_ids, dtype=torch.bool) if finished is None else finished.bool()
        scores = self_rewards[:, None] if scores is None else scores
        order = distinct_rows(problem_ids, sample_indices)
        unique_ids, problem, sizes = torch.unique_consecutive(
            problem_ids[order], return_inverse=True, return_counts=True
        )
        rewards = rewards[order]
        return cls(
            unique_ids,
            sizes,
            problem,
            rewards,
            rewards > 0.5,
            answer_ids[order],
            self_rewards[order],
            finished[order],
            scores[order],
        )

    def check_sizes(self, k: int) -> None:
        """Refuse ``k`` if a problem has fewer solutions.

        Raises:
            ValueError: naming ``k``, the problem and its number of solutions.
        """
        short = (self.sizes < k).nonzero()
        if len(short):
            problem_id, size = self.problem_ids[short[0]].item(), self.sizes[short[0]].item()
            raise ValueError(
                f"k is {k}, but problem {problem_id} has only {size} sampled solutions "
                f"({len(short)} of {len(self.sizes)} problems have fewer than {k}): "
                f"sample at least {k} solutions per problem, or lower k."
            )

    def first(self, k: int) -> "SampleGroups":
        """The first ``k`` solutions of every problem by sample index; refuses like ``check_sizes``."""
        self.check_sizes(k)
        rows = self._positions() < k
        return self._regrouped(self.problem_ids, self.sizes.clamp(max=k), self.problem[rows], rows)

    def blocks(self, k: int) -> tuple["SampleGroups", Int[Tensor, " B"]]:
        """Every ``k`` consecutive solutions of a problem as a group of their own; a rest of fewer is left out.

        Args:
            k: solutions per block; refused like in ``check_sizes`` where a problem has fewer.

        Returns:
            The B blocks, numbered from 0 in ``problem_ids``, and the position in ``problem_ids`` here of the problem
            that each is of, [B], ascending.
        """
        self.check_sizes(k)
        counts = self.sizes // k
        owner = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        positions = self._positions()
        rows = positions < (counts * k)[self.problem]
        block = (counts.cumsum(0) - counts)[self.problem] + positions // k
        numbers = torch.arange(len(owner), device=owner.device)
        return self._regrouped(numbers, torch.full_like(numbers, k), block[rows], rows), owner

    def select(self, problems: Bool[Tensor, " P"]) -> "SampleGroups":
        """The solutions of some problems alone.

        Args:
            problems: [P] which.
        """
        numbers, rows = problems.cumsum(0) - 1, problems[self.problem]
        return self._regrouped(self.problem_ids[problems], self.sizes[problems], numbers[self.problem[rows]], rows)

    def _positions(self) -> Tensor:
        starts = self.sizes.cumsum(0) - self.sizes
        return torch.arange(len(self.problem), device=self.problem.device) - starts[self.problem]

    def _regrouped(self, problem_ids: Tensor, sizes: Tensor, problem: Tensor, rows: Tensor) -> "SampleGroups":
        return SampleGroups(
            problem_ids,
            sizes,
            problem,
            self.rewards[rows],
            self.correct[rows],
            self.answer_ids[rows],
            self.self_rewards[rows],
            self.finished[rows],
            self.scores[rows],
        )

    def sum(self, values: Real[Tensor, " N"]) -> Real[Tensor, " P"]:
        """Sums [P] of ``values`` [N] over the solutions of each problem."""
        return values.new_zeros(len(self.problem_ids)).index_add(0, self.problem, values)


class GroupMetric(ExactMetric):
    """Base of metrics over several sampled solutions per problem: one value per problem, then their mean.

    Rows are regrouped by problem id in ``compute``, so the solutions of one problem may lie on several ranks,
    and a row that a DistributedSampler repeated to fill up its last batch counts once: of rows with the same
    problem id and sample index only the first is used. All subclasses hold the same states, so a
    ``MetricCollection`` of them stores the rows once. ``compute`` without data gives NaN: the mean over no
    problem is undefined.
    """

    higher_is_better: bool | None = True
    scores_per_solution: Int[Tensor, ""]

    def __init__(self) -> None:
        super().__init__()
        self.add_list("problem_ids", torch.int64)
        self.add_list("sample_indices", torch.int64)
        self.add_list("rewards", torch.float32)
        self.add_list("answer_ids", torch.int64)
        self.add_list("self_rewards", torch.float32)
        self.add_list("finished", torch.uint8)
        self.add_list("scores", torch.float32)  # [N * S], row by row
        self.add_state("scores_per_solution", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def update(
        self,
        problem_ids: Int[Tensor, " N"],
        sample_indices: Int[Tensor, " N"],
        rewards: Real[Tensor, " N"],
        answer_ids: Int[Tensor, " N"],
        self_rewards: Real[Tensor, " N"],
        finished: Shaped[Tensor, " N"] | None = None,
        scores: Real[Tensor, "N S"] | None = None,
    ) -> None:
        """Add solutions, in any order.

        Args:
            problem_ids: [N], integers that name the problem within the data set, the same on all ranks.
            sample_indices: [N], integers: number of each solution within its problem.
            rewards: [N], the verifier's rewards; a solution is correct if its reward is above 0.5.
            answer_ids: [N], from ``answer_ids()``: equal ids are equal answers, -1 is no answer.
            self_rewards: [N], scores as they are, not clamped.
            finished: [N], whether each response ended by itself; None if all did.
            scores: [N, S], all scores of each solution, NaN for absent ones, with the same S in every call on every
                rank; None, in every call, if r_s is the only one.

        Raises:
            ValueError: if the shapes differ, ids are not integers, or a reward or a self-reward is NaN.
        """
        finished = torch.ones_like(problem_ids, dtype=torch.bool) if finished is None else finished
        self.check_columns(
            problem_ids=problem_ids,
            sample_indices=sample_indices,
            rewards=rewards,
            answer_ids=answer_ids,
            self_rewards=self_rewards,
            finished=finished,
        )
        self.check_integers(problem_ids=problem_ids, sample_indices=sample_indices, answer_ids=answer_ids)
        self.check_numbers(rewards=rewards, self_rewards=self_rewards)
        self.append("problem_ids", problem_ids)
        self.append("sample_indices", sample_indices)
        self.append("rewards", rewards)
        self.append("answer_ids", answer_ids)
        self.append("self_rewards", self_rewards)
        self.append("finished", finished)
        if scores is not None:
            if scores.ndim != 2 or len(scores) != len(problem_ids):
                raise ValueError(
                    f"{type(self).__name__}.update needs scores [N, S] of {len(problem_ids)} solutions, but got "
                    f"{list(scores.shape)}."
                )
            self.append("scores", scores.flatten())
            self.scores_per_solution = self.scores_per_solution.clamp(min=scores.shape[1])

    def compute(self) -> Float[Tensor, ""]:
        """Mean over problems, over all ranks; NaN (undefined) without data.

        Raises:
            ValueError: if a problem has fewer solutions than the metric needs.
        """
        return self.problem_values(self._groups()).mean()

    def per_problem(self) -> tuple[Int[Tensor, " P"], Float[Tensor, " P"]]:
        """The values whose mean is ``compute()``; gathers, so call it on every rank.

        Returns:
            The problem ids [P], ascending, and the value of each problem [P], float32. The values of two
            metrics with the same data belong together row by row; see ``standard_error``.

        Raises:
            ValueError: if a problem has fewer solutions than the metric needs.
        """
        with self.gathered():
            groups = self._groups()
            return groups.problem_ids, self.problem_values(groups)

    def sample_groups(self) -> SampleGroups:
        """The solutions of all ranks by problem; gathers, so call it on every rank."""
        with self.gathered():
            return self._groups()

    @abstractmethod
    def problem_values(self, groups: SampleGroups) -> Float[Tensor, " P"]:
        """The value of each problem, [P], float32."""

    def check_k(self, k: int) -> None:
        """Refuse a number of solutions below 1.

        Raises:
            ValueError: if it is.
        """
        if k < 1:
            raise ValueError(f"{type(self).__name__} needs k of at least 1, but k is {k}.")

    def _groups(self) -> SampleGroups:
        return SampleGroups.regroup(
            self.held("problem_ids"),
            self.held("sample_indices"),
            self.held("rewards"),
            self.held("answer_ids"),
            self.held("self_rewards"),
            self.held("finished"),
            self._several_scores(),
        )

    def _several_scores(self) -> Tensor | None:
        """[N, S]; None where r_s is the only score of each solution."""
        columns, solutions, scores = int(self.scores_per_solution), len(self.held("problem_ids")), self.held("scores")
        if len(scores) != solutions * columns:
            raise ValueError(
                f"{type(self).__name__} has {len(scores)} scores of {solutions} solutions, of which one has {columns}: "
                "give all the same number of scores, and NaN for those that are absent."
            )
        return scores.view(solutions, columns) if columns else None
