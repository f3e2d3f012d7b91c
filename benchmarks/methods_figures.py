"""The figures: what the score is good for, and what training did to each method."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from methods_table import SECTIONS, Entry

RULES = {
    "best_of": ("best of k by score", "#0072B2", "v"),
    "best_rule": ("vote by the rule best in training", "#009E73", "D"),
    "weighted_maj": ("weighted vote", "#E69F00", "^"),
    "maj": ("majority", "#000000", "s"),
}
"""Of the first method's votes the label, the colour, and the marker."""

TRAINING = {
    "pass@1": "pass@1",
    "F1": "self_verification/f1",
    "AUROC": "self_verification/auroc",
    "AUROC within problems": "self_verification/auroc_within_mean",
}
BAND = 0.15
"""Opacity of a band of one standard error to both sides of a mean over seeds."""


def votes_figure(first: Sequence[Entry], plain: Sequence[Entry], path: Path) -> bool:
    """Accuracy against the number of solutions: all votes of one method, and the majority of another.

    Args:
        first: runs of the method whose score votes, one a seed.
        plain: runs of the method beside it; none for none.
        path: of the figure.

    Returns:
        Whether some evaluation with more solutions was there to draw.
    """
    sections = [section for section in ("val", "test") if all(section in entry.measured for entry in first)]
    if not sections or not first:
        return False
    canvas = Figure(figsize=(5.6 * len(sections), 5), layout="constrained", dpi=150)
    for axes, section in zip(canvas.subplots(1, len(sections), squeeze=False, sharey=True).flat, sections, strict=True):
        for rule, (label, colour, marker) in RULES.items():
            curves = [entry.measured[section].curves.get(rule, {}) for entry in first]
            _band(axes, curves, f"{first[0].run.method.name}: {label}", colour, marker=marker)
        beside = [entry.measured[section].curves["maj"] for entry in plain if section in entry.measured]
        if beside:
            _band(axes, beside, f"{plain[0].run.method.name}: majority", "#D55E00", "--")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set(xlabel="solutions per problem, k")
        axes.set_title(SECTIONS[section].removesuffix(", with more solutions").replace("`", ""), fontsize=10)
        axes.grid(color="0.92")
    canvas.axes[0].set_ylabel("share of problems solved")
    canvas.legend(
        *canvas.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9, frameon=False
    )
    canvas.savefig(path)
    return True


def training_figure(methods: Mapping[str, Sequence[Entry]], dataset: str, path: Path) -> None:
    """Held-out metrics against the optimizer step, a line per method.

    Args:
        methods: the runs of each, by its name.
        dataset: name of the set of problems.
        path: of the figure.
    """
    canvas = Figure(figsize=(16, 4.2), layout="constrained", dpi=120)
    for axes, (heading, metric) in zip(canvas.subplots(1, len(TRAINING)), TRAINING.items(), strict=True):
        for number, (name, entries) in enumerate(methods.items()):
            curves = [dict(entry.run.curve(f"val/{dataset}/{metric}")) for entry in entries]
            _band(axes, curves, name, f"C{number % 10}", ("-", "--", ":")[number // 10 % 3])
        axes.set(title=f"{heading}, held-out problems", xlabel="optimizer step", ylim=(0, 1))
        axes.grid(alpha=0.3)
    canvas.legend(
        *canvas.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9, frameon=False
    )
    canvas.savefig(path)


def _band(
    axes: Axes, curves: Sequence[Mapping[int, float]], label: str, colour: str, style: str = "-", marker: str = "o"
) -> None:
    """The mean of curves where all of them have a value, and its standard error."""
    places = sorted(set.intersection(*(set(curve) for curve in curves)))
    if not places:
        return
    values = np.array([[curve[place] for place in places] for curve in curves])
    mean = values.mean(axis=0)
    axes.plot(places, mean, color=colour, linestyle=style, marker=marker, markersize=4, linewidth=1.5, label=label)
    if len(values) > 1:
        error = values.std(axis=0, ddof=1) / len(values) ** 0.5
        axes.fill_between(places, mean - error, mean + error, color=colour, alpha=BAND, linewidth=0)
