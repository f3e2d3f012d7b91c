"""Accuracy of several runs' votes against samples and against tokens: the second figure of ``compare``."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from laser_lightning.errors import UserError

PLACES = ("evaluation/test_curves.csv", "evaluation/val_curves.csv", "figures/votes.csv")
"""Where a run keeps the curves of its last evaluation: those of the first place that has a set."""

RULES = {"maj": "majority", "weighted": "weighted vote", "best_of": "best of k"}
MARKS = {"maj": ("s", "--"), "weighted": ("^", "-"), "best_of": ("v", ":")}


class Point(NamedTuple):
    """Accuracy with k solutions to a problem.

    Attributes:
        k: solutions.
        tokens: that they cost, judgements included where the vote needs them; NaN where not known.
        value: the accuracy.
    """

    k: int
    tokens: float
    value: float


Curves = dict[str, list[Point]]
"""By the keys of ``RULES``."""


def read_curves(directory: Path) -> dict[str, Curves]:
    """The curves of a run's last evaluation by set; a run that has none has no sets.

    The weighted vote is that of the rule that is best on training problems, where the run has it, and weighted majority
    elsewhere.

    Args:
        directory: the run's.

    Raises:
        UserError: if a file of curves is damaged.
    """
    found: dict[str, dict[str, list[Point]]] = {}
    for place in PLACES:
        path = directory / place
        for name, curves in (_read(path) if path.is_file() else {}).items():
            found.setdefault(name, curves)
    return {name: _shown(curves) for name, curves in found.items() if name != "average"}


def _read(path: Path) -> dict[str, dict[str, list[Point]]]:
    found: dict[str, dict[str, list[Point]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                point = Point(int(row["k"]), float(row.get("tokens") or math.nan), float(row["value"] or math.nan))
                found.setdefault(row["set"], {}).setdefault(row["metric"], []).append(point)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"Line {number} of {path} is not a point of a curve as the report writes it."
                ) from error
    return found


def _shown(curves: Mapping[str, list[Point]]) -> Curves:
    weighted = "best_rule" if "best_rule" in curves else "weighted_maj"
    names = {"maj": "maj", "weighted": weighted, "best_of": "best_of"}
    return {key: sorted(curves[name]) for key, name in names.items() if name in curves}


def draw_votes(runs: Mapping[str, Mapping[str, Curves]], path: Path) -> bool:
    """Draws majority, weighted vote and best of k of all runs, a row of two panels to each set.

    Args:
        runs: curves by run and set.
        path: of the figure.

    Returns:
        Whether there was anything to draw: sets with several solutions to a problem.
    """
    sets = [name for name in dict.fromkeys(name for run in runs.values() for name in run) if _several(runs, name)]
    if not sets:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8 * len(sets)), layout="constrained", dpi=150)
    for line, name in zip(figure.subplots(len(sets), 2, squeeze=False, sharey="row"), sets, strict=True):
        for panel, column in zip(line, ("k", "tokens"), strict=True):
            for number, (run, own) in enumerate(runs.items()):
                for key, points in own.get(name, {}).items():
                    marker, style = MARKS[key]
                    xs = [float(getattr(point, column)) for point in points]
                    label = f"{Path(run).name}: {RULES[key]}"
                    values = [point.value for point in points]
                    panel.plot(xs, values, f"C{number}", marker=marker, linestyle=style, markersize=5, label=label)
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter("{x:.0f}")
            panel.set_xlabel("solutions per problem, k" if column == "k" else "tokens per problem")
            panel.grid(color="0.92")
        line[0].set_title(name, fontsize=10)
        line[0].set_ylabel("share of problems solved")
        figure.legend(*line[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path)
    return True


def _several(runs: Mapping[str, Mapping[str, Curves]], name: str) -> bool:
    return any(len(points) > 1 for run in runs.values() for points in run.get(name, {}).values())


def votes_table(name: str, runs: Mapping[str, Mapping[str, Curves]]) -> str | None:
    """A table in Markdown of the votes with all solutions, and what these cost.

    Args:
        name: of the set.
        runs: curves by run and set.

    Returns:
        None where no run has curves of the set.
    """
    shown: Sequence[tuple[str, Curves]] = [(run, own[name]) for run, own in runs.items() if own.get(name)]
    if not shown:
        return None
    heads = [name, "k", *(f"{label} (tokens)" for label in RULES.values())]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for run, curves in shown:
        k = max(points[-1].k for points in curves.values())
        cells = (_cell(curves[key][-1]) if key in curves else "-" for key in RULES)
        lines.append(f"| {run} | {k} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(point: Point) -> str:
    if math.isnan(point.value):
        return "-"
    return f"{point.value:.3f} ({'?' if math.isnan(point.tokens) else f'{point.tokens:.0f}'})"
