"""Rows of recorded solutions as problems: all solutions of a problem belong to one record."""

from collections.abc import Mapping, Sequence
from typing import Any

from laser_lightning.data.problem import Problem, RecordedSolution


def recorded_solution(row: Mapping[str, Any]) -> RecordedSolution:
    """The solution of a row that has the column ``reward`` (see ``ProblemSource.load``)."""
    return RecordedSolution(
        row["solution"], row["reward"], row.get("finished") is not False, row.get("prompt_fingerprint")
    )


def gather_recorded(problems: Sequence[Problem]) -> list[Problem]:
    """Merge problems with recorded solutions and the same prompt into the first of them; others stay as they are."""
    gathered: dict[object, list[Problem]] = {}
    for row, problem in enumerate(problems):
        gathered.setdefault(problem.prompt if problem.recorded else row, []).append(problem)
    return [
        first if not others else first._replace(recorded=tuple(s for one in (first, *others) for s in one.recorded))
        for first, *others in gathered.values()
    ]
