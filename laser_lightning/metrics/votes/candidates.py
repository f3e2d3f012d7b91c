"""What a vote rule sees: the solutions of many problems, and their answers as classes."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.metrics.groups import SampleGroups, sort_rows, starts_run
from laser_lightning.shapes import Bool, Float, Int, Real

# Votes are summed as integers, whose sum does not depend on the order of addition: ties are exact on every device.
ONE_VOTE = 2**40
LARGEST_VALUE = 1024  # the sum of 8,192 such values in these units still fits into an int64


class AnswerClasses(NamedTuple):
    """Solutions of one problem with the same answer form a class; M solutions with an answer, in C classes.

    Attributes:
        rows: [M], which of the N solutions these are, sorted by class.
        row_class: [M], the class of each.
        problem: [C], number of each class's problem.
    """

    rows: Int[Tensor, " M"]
    row_class: Int[Tensor, " M"]
    problem: Int[Tensor, " C"]


@dataclass(frozen=True)
class Candidates:
    """The N solutions of P problems that a vote rule chooses among; whether they are correct cannot be seen.

    Those of a problem stand next to each other, in the order in which they were drawn. A problem may have fewer or more
    solutions than another.

    Attributes:
        problems: P, the number of problems.
        problem: [N] int64, number of each solution's problem, ascending from 0.
        answer_ids: [N] int64: of the solutions of one problem, those with equal ids gave the same answer; -1 for none.
        self_rewards: [N] float32, r_s of each, not clamped; -inf in predictions where the model's score is no number.
        scores: [N, S] float32, all scores of each, NaN for those that it does not have: where each solution was
            verified several times, its verdicts. Elsewhere S is 1, and the score is r_s.
        finished: [N] bool: whether the response ended by itself; False for a truncated one.

    Raises:
        UserError: if a self-reward is NaN, which no rule can weigh.
    """

    problems: int
    problem: Int[Tensor, " N"]
    answer_ids: Int[Tensor, " N"]
    self_rewards: Float[Tensor, " N"]
    scores: Float[Tensor, "N S"]
    finished: Bool[Tensor, " N"]

    def __post_init__(self) -> None:
        # Here and not in the rules: as an integer, which votes are summed as, NaN is one of the lowest there are.
        missing = self.self_rewards.isnan().nonzero()
        if len(missing):
            raise UserError(
                f"The self-reward of solution {int(missing[0])} is NaN ({len(missing)} of {len(self.self_rewards)} "
                "solutions), and no vote rule can weigh it: give it a number, -inf for one that shall not win, or "
                "leave the solution out."
            )

    @classmethod
    def of(cls, groups: SampleGroups) -> "Candidates":
        """The solutions of groups, without what the verifier says of them."""
        return cls(
            len(groups.problem_ids),
            groups.problem,
            groups.answer_ids,
            groups.self_rewards,
            groups.scores,
            groups.finished,
        )

    @property
    def has_answer(self) -> Bool[Tensor, " N"]:
        """[N] bool."""
        return self.answer_ids >= 0

    @cached_property
    def classes(self) -> AnswerClasses:
        """The classes of equal answers; a solution without an answer is in none."""
        rows = self.has_answer.nonzero().squeeze(1)
        rows = rows[sort_rows(self.problem[rows], self.answer_ids[rows])]
        new_class = starts_run(self.problem[rows], self.answer_ids[rows])
        return AnswerClasses(rows, new_class.cumsum(0) - 1, self.problem[rows[new_class]])

    def sum_by_answer(self, values: Real[Tensor, " N"]) -> Real[Tensor, " N"]:
        """The sum over the solutions with the same answer, for each solution; 0 for one without an answer.

        Sums are exact, in units of 2^-40, so that equal votes tie on every device and in every order.

        Args:
            values: [N], integers, or real numbers between -1024 and 1024.

        Returns:
            [N], int64 for integers and else float64.

        Raises:
            UserError: if a number is not between these bounds, infinite ones and NaN included.
        """
        classes, units = self.classes, _units(values)
        sums = units.new_zeros(len(classes.problem)).index_add(0, classes.row_class, units[classes.rows])
        found = torch.zeros_like(units)
        found[classes.rows] = sums[classes.row_class]
        return _values(found, like=values)

    def count_by_answer(self) -> Int[Tensor, " N"]:
        """[N] int64, how many solutions gave each one's answer; 0 for one without an answer."""
        return self.sum_by_answer(torch.ones_like(self.answer_ids))

    def mean_by_answer(self, values: Real[Tensor, " N"]) -> Float[Tensor, " N"]:
        """[N] float64, the mean over the solutions with the same answer, exact as in ``sum_by_answer``.

        Args:
            values: [N], as there.
        """
        return self.sum_by_answer(values).double() / self.count_by_answer().clamp(min=1)

    def sum_by_problem(self, values: Real[Tensor, " N"]) -> Real[Tensor, " N"]:
        """The sum over all solutions of the same problem, for each solution, exact as in ``sum_by_answer``.

        Args:
            values: [N], as there.
        """
        units = _units(values)
        return _values(units.new_zeros(self.problems).index_add(0, self.problem, units)[self.problem], like=values)


def _units(values: Tensor) -> Tensor:
    if not values.is_floating_point():
        return values.long()
    if not (values.abs() < LARGEST_VALUE).all():
        raise UserError(
            f"Votes are summed from values between -{LARGEST_VALUE} and {LARGEST_VALUE}, and one is not: clamp "
            "them, and put a number in the place of NaN."
        )
    return (values.double() * ONE_VOTE).round().long()


def _values(units: Tensor, like: Tensor) -> Tensor:
    return units.double() / ONE_VOTE if like.is_floating_point() else units
