"""Checks of a loaded set before anything is sampled."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from laser_lightning.data.problem import Problem
from laser_lightning.errors import UnusableFunctionError, UserError
from laser_lightning.verifiers.base import Verifier

_ROWS_NAMED = 5  # in an error about rows


def check_indices(name: str, problems: Sequence[Problem]) -> None:
    """Refuse a set in which two problems have the same index: the metrics would take them for one problem.

    Args:
        name: of the set.
        problems: its problems, in the order of its rows.

    Raises:
        UserError: naming the rows.
    """
    first: dict[int, int] = {}
    repeated = []
    for row, problem in enumerate(problems):
        if type(problem.index) is not int:
            raise UserError(f"Row {row} of the set '{name}' has the index {problem.index!r}: an index is an integer.")
        if (earlier := first.setdefault(problem.index, row)) != row:
            repeated.append(f"rows {earlier} and {row} have {problem.index}")
    if repeated:
        raise UserError(
            f"{len(repeated)} rows of the set '{name}' repeat the index of an earlier one: {_named(repeated)}. Its "
            "source must give each row an index of its own, or leave the column `index` out."
        )


def judgeable(
    name: str,
    problems: Sequence[Problem],
    verifier: Verifier,
    unmatched: Literal["filter", "refuse"],
    verifier_column: str | None = None,
) -> list[Problem]:
    """The problems of a set whose gold answers a response can match.

    Args:
        name: of the set.
        problems: its problems.
        verifier: that judges them.
        unmatched: ``filter`` the others out with a warning, or ``refuse`` the set for one of them.
        verifier_column: the column of the source that names verifiers; None if there is none.

    Raises:
        UserError: naming the rows: of problems without a verifier, and of gold answers that cannot be matched where
            those are refused or nothing else is left.
    """
    verdicts: dict[tuple[str | None, str], str | None] = {}
    kept, unknown, bad = [], [], []
    for problem in problems:
        try:
            chosen = verifier.named(problem.verifier)
        except ValueError as error:
            unknown.append(f"row {problem.index} {error}")
            continue
        key = (problem.verifier, problem.answer)
        if key not in verdicts:
            verdicts[key] = _refusal(chosen.check_gold, problem.answer)
        reason = verdicts[key]
        if reason is None and chosen.sees_all:
            reason = _refusal(chosen.check_row, problem.row)
        if reason is None:
            kept.append(problem)
        else:
            bad.append(f"row {problem.index} ({reason})")
    if unknown:
        mend = f"Mend the column '{verifier_column}'" if verifier_column else "Set verifier_column of the source"
        message = f"{len(unknown)} problems of the set '{name}' have no verifier: {_named(unknown)}"
        raise UserError(f"{message}. {mend}, or model.verifier.")
    if not bad:
        return kept
    message = f"{len(bad)} of the {len(problems)} gold answers of the set '{name}' can never be matched: {_named(bad)}."
    if unmatched == "refuse" or not kept:
        remedy = ", or leave them out with data.unmatched_gold: filter" if kept else ""
        raise UserError(f"{message} Mend the rows, choose another verifier or answer_pattern{remedy}.")
    rank_zero_warn(f"{message} They are left out (data.unmatched_gold: filter).")
    return kept


def _refusal(check: Callable[[Any], None], given: object) -> str | None:
    """Why a check of the verifier refuses what it is given; None if it does not."""
    try:
        check(given)
    except UnusableFunctionError:  # which says nothing about the row
        raise
    except ValueError as error:
        return str(error)
    return None


def _named(rows: list[str]) -> str:
    more = f"; and {len(rows) - _ROWS_NAMED} more" if len(rows) > _ROWS_NAMED else ""
    return "; ".join(rows[:_ROWS_NAMED]) + more
