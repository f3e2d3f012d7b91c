"""``laser-lightning compare``: the last evaluations of several runs beside each other."""

import argparse
import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from laser_lightning.cli.compare_votes import draw_votes, read_curves, votes_table
from laser_lightning.errors import UserError

METRICS = {
    "pass@1": "pass@1",
    "F1": "self_verification/f1",
    "AUROC": "self_verification/auroc",
    "AUROC within": "self_verification/auroc_within",
    "length": "response/length_tokens",
}
"""Headings, and names of the metrics below ``val/<set>/``."""

_CORRECT = 0.5  # a reward or self-reward above it stands for "correct"


class Solutions(NamedTuple):
    """The solutions of one problem in one evaluation.

    Attributes:
        correct: [k] whether the verifier accepts each.
        self_rewards: [k], 0 for a truncated one.
        tokens: [k] lengths.
    """

    correct: NDArray[np.bool_]
    self_rewards: NDArray[np.float64]
    tokens: NDArray[np.float64]


Evaluation = Mapping[str, Solutions]
"""By problem."""


class Run(NamedTuple):
    """What a run left of its last evaluation.

    Attributes:
        name: its directory.
        values: by set and heading, from ``metrics.csv``.
        solutions: by set, from ``solutions/*.jsonl``; sets without any are left out.
    """

    name: str
    values: dict[str, dict[str, float]]
    solutions: dict[str, dict[str, Solutions]]


class Difference(NamedTuple):
    """A difference to the first run.

    Attributes:
        value: of the metric, over the problems that both have solved.
        standard_error: of that difference, over problems.
        problems: their number.
    """

    value: float
    standard_error: float
    problems: int


def _pass_at_1(solutions: Sequence[Solutions]) -> float:
    return float(np.mean([one.correct.mean() for one in solutions]))


def _length(solutions: Sequence[Solutions]) -> float:
    return float(np.concatenate([one.tokens for one in solutions]).mean())


def _f1(solutions: Sequence[Solutions]) -> float:
    correct = np.concatenate([one.correct for one in solutions])
    verdicts = np.concatenate([one.self_rewards for one in solutions]) > _CORRECT
    right, wrong = (float(part.mean()) if part.size else 0.0 for part in (verdicts[correct], ~verdicts[~correct]))
    return 2 * right * wrong / (right + wrong) if right + wrong else 0.0


def _auroc(solutions: Sequence[Solutions]) -> float:
    correct = np.concatenate([one.correct for one in solutions])
    scores = np.concatenate([one.self_rewards for one in solutions])
    if correct.all() or not correct.any():
        return math.nan
    ordered = np.sort(scores[~correct])
    below, up_to = (np.searchsorted(ordered, scores[correct], side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(ordered)))


def _auroc_within(solutions: Sequence[Solutions]) -> float:
    correct = np.concatenate([one.correct for one in solutions])
    scores = np.concatenate([one.self_rewards for one in solutions])
    problem = np.repeat(np.arange(len(solutions)), [len(one.correct) for one in solutions])
    order = np.lexsort((scores, problem))
    correct, scores, problem = correct[order], scores[order], problem[order]
    is_first = np.r_[True, (problem[1:] != problem[:-1]) | (scores[1:] != scores[:-1])]  # of its level of equal scores
    level, owner = np.cumsum(is_first) - 1, problem[is_first]
    right, wrong = np.bincount(level[correct], minlength=len(owner)), np.bincount(level[~correct], minlength=len(owner))
    of_problem = np.bincount(problem[~correct], minlength=len(solutions))
    wrong_below = wrong.cumsum() - wrong - (of_problem.cumsum() - of_problem)[owner]
    pairs = int((right * of_problem[owner]).sum())
    return float((right * (2 * wrong_below + wrong)).sum() / (2 * pairs)) if pairs else math.nan


STATISTICS: dict[str, Callable[[Sequence[Solutions]], float]] = {
    "pass@1": _pass_at_1,
    "F1": _f1,
    "AUROC": _auroc,
    "AUROC within": _auroc_within,
    "length": _length,
}


def difference(
    run: Evaluation, first: Evaluation, statistic: Callable[[Sequence[Solutions]], float]
) -> Difference | None:
    """The difference of a metric between two runs, with its standard error paired by problem.

    The error is the jackknife's: each problem is left out of both runs at once. For a mean over problems that is the
    standard error of the mean of the problems' differences, exactly.

    Args:
        run: solutions by problem.
        first: those of the run that it is compared with.
        statistic: the metric.

    Returns:
        None if fewer than two problems are in both.
    """
    common = [problem for problem in first if problem in run]
    count = len(common)
    if count < 2:
        return None
    ours, theirs = [run[problem] for problem in common], [first[problem] for problem in common]
    whole = statistic(ours) - statistic(theirs)
    without = [
        statistic(ours[:left] + ours[left + 1 :]) - statistic(theirs[:left] + theirs[left + 1 :])
        for left in range(count)
    ]
    spread = np.array(without) - np.mean(without)
    return Difference(whole, math.sqrt((count - 1) / count * float((spread**2).sum())), count)


def read_run(directory: Path) -> Run:
    """Reads the last evaluation of a run.

    Args:
        directory: the run's.

    Raises:
        UserError: if there is neither a ``metrics.csv`` with evaluations nor a log of their solutions.
    """
    if not directory.is_dir():
        raise UserError(f"There is no run at {str(directory)!r}.")
    run = Run(str(directory), _values(directory / "metrics.csv"), _solutions(directory / "solutions"))
    if not run.values and not run.solutions:
        raise UserError(f"{directory} has no evaluation: neither metrics.csv nor solutions/ holds any.")
    return run


def _values(path: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    if not path.is_file():
        return found
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for column, text in row.items():
                stage, _, rest = (column or "").partition("/")
                for heading, metric in METRICS.items():
                    if stage in ("val", "test") and rest.endswith(f"/{metric}") and text:
                        found.setdefault(rest.removesuffix(f"/{metric}"), {})[heading] = float(text)
    return found


def _solutions(folder: Path) -> dict[str, dict[str, Solutions]]:
    """The solutions of the last evaluation of each set."""
    rows: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        name = path.name.split(".")
        if name[0] not in ("val", "validate", "test") or (len(name) > 2 and name[1].isdigit()):  # of an earlier run
            continue
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                    rows.setdefault(row["dataset"], {}).setdefault(row["step"], []).append(row)
                except (ValueError, TypeError, KeyError) as error:
                    raise UserError(
                        f"Line {number} of {path} is not a solution as the solution log writes it."
                    ) from error
    return {dataset: _by_problem(steps[max(steps)]) for dataset, steps in rows.items()}


def _by_problem(rows: Sequence[Mapping[str, Any]]) -> dict[str, Solutions]:
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(json.dumps([row["problem"], row["gold"]]), []).append(row)
    return {
        problem: Solutions(
            np.array([(row["reward"] or 0.0) > _CORRECT for row in group]),
            np.array([row["self_reward"] or 0.0 for row in group], dtype=np.float64),
            np.array([row["response_tokens"] for row in group], dtype=np.float64),
        )
        for problem, group in grouped.items()
    }


class Row(NamedTuple):
    """A run's line in the table of a set.

    Attributes:
        run: its name.
        values: by heading; None where the run does not say.
        differences: to the first run, by heading; None without solutions of the same problems.
    """

    run: str
    values: dict[str, float | None]
    differences: dict[str, Difference | None]


def compare(runs: Sequence[Run]) -> dict[str, list[Row]]:
    """Puts runs beside each other.

    Args:
        runs: the first is what the others are compared with.

    Returns:
        The lines by set, in the order of the runs.
    """
    sets = list(dict.fromkeys(name for run in runs for name in (*run.values, *run.solutions)))
    tables: dict[str, list[Row]] = {}
    for name in sets:
        first = runs[0].solutions.get(name, {})
        for number, run in enumerate(runs):
            own = run.solutions.get(name, {})
            values = {
                heading: run.values.get(name, {}).get(heading, statistic(list(own.values())) if own else None)
                for heading, statistic in STATISTICS.items()
            }
            gaps = {heading: difference(own, first, one) if number else None for heading, one in STATISTICS.items()}
            tables.setdefault(name, []).append(Row(run.name, values, gaps))
    return tables


def table(name: str, rows: Sequence[Row]) -> str:
    """A table in Markdown: values, and differences to the first run with their standard errors.

    Args:
        name: of the set.
        rows: of the runs.
    """
    lines = [f"| {name} | {' | '.join(METRICS)} |", f"| --- |{' ---: |' * len(METRICS)}"]
    for row in rows:
        cells = (_cell(heading, row.values[heading], row.differences[heading]) for heading in METRICS)
        lines.append(f"| {row.run} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(heading: str, value: float | None, gap: Difference | None) -> str:
    digits = 1 if heading == "length" else 3
    if value is None or math.isnan(value):
        return "-"
    if gap is None or math.isnan(gap.value):
        return f"{value:.{digits}f}"
    error = "?" if math.isnan(gap.standard_error) else f"{gap.standard_error:.{digits}f}"
    return f"{value:.{digits}f} ({gap.value:+.{digits}f} ± {error})"


def draw(tables: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draws the metrics of all runs, a row of panels to each set; bars are standard errors of the differences.

    Args:
        tables: of ``compare``.
        path: of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(METRICS), 2.6 * len(tables)), layout="constrained", dpi=150)
    panels = figure.subplots(len(tables), len(METRICS), squeeze=False)
    for line, (name, rows) in zip(panels, tables.items(), strict=True):
        for panel, heading in zip(line, METRICS, strict=True):
            for place, row in enumerate(rows):
                gap = row.differences[heading]
                value = row.values[heading]
                panel.errorbar(
                    place, math.nan if value is None else value, gap and gap.standard_error, fmt="o", capsize=3
                )
            panel.set_title(f"{name}: {heading}", fontsize=9)
            panel.set_xticks(range(len(rows)), [Path(row.run).name for row in rows], rotation=30, fontsize=8)
    figure.savefig(path)


def command(args: Sequence[str]) -> None:
    """``laser-lightning compare RUN RUN ...``.

    Args:
        args: the words behind ``compare``.

    Raises:
        UserError: if a run has no evaluation.
    """
    parser = argparse.ArgumentParser(
        prog="laser-lightning compare",
        description="Puts the last evaluations of runs beside each other: values, differences to the first run with "
        "standard errors paired by problem (where both have a log of solutions), votes with their tokens, and figures.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="directory of a run, such as runs/version_0")
    parser.add_argument(
        "--figure",
        type=Path,
        default=Path("compare.png"),
        help="figure to write; default: compare.png; that of the votes gets _votes behind its name",
    )
    given = parser.parse_args(args)
    if len(given.runs) < 2:
        raise UserError("compare needs two runs or more.")
    tables = compare([read_run(directory) for directory in given.runs])
    curves = {str(directory): read_curves(directory) for directory in given.runs}
    for name, rows in tables.items():
        print(f"{table(name, rows)}\n")
        if (votes := votes_table(name, curves)) is not None:
            print(f"{votes}\n")
    draw(tables, given.figure)
    print(f"Differences are to {given.runs[0]}, with standard errors over problems. Figure: {given.figure}")
    of_votes = given.figure.with_name(f"{given.figure.stem}_votes{given.figure.suffix}")
    if draw_votes(curves, of_votes):
        print(f"Votes against samples and tokens: {of_votes}")
