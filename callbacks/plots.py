"""The figures themselves, drawn from numbers without any global state of matplotlib."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from laser_lightning.callbacks.names import row_order
from laser_lightning.callbacks.plotted_numbers import centred_scores, roc_curve, trailing_mean
from laser_lightning.metrics import pair_counts
from laser_lightning.metrics.functional import (
    auroc,
    expected_calibration_error,
    harmonic_mean,
    reliability_curve,
)
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD

Points = Sequence[tuple[int, float]]
Series = Mapping[str, Points]

# Of the palette of Okabe and Ito, which people with any colour vision tell apart.
BLUE, VERMILLION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
ORANGE, SKY = "#E69F00", "#56B4E9"
Style = tuple[str, str, str]
OF_VOTES: dict[str, tuple[str, Style]] = {
    "maj": ("majority", (VERMILLION, "s", "--")),
    "weighted_maj": ("weighted majority", (GREEN, "^", "-.")),
    "best_of": ("best of k", (PURPLE, "v", ":")),
    "best_rule": ("weighted vote (best rule)", (BLUE, "o", "-")),
}
"""Labels and styles (colour, marker, line) of the votes that are always there, and of the best rule."""
OF_OTHER_VOTES: Sequence[Style] = ((ORANGE, "D", "--"), (SKY, "P", "-."), (BLUE, "X", ":"), (GREY, "*", "-"))
SCORE_LIMITS = (-1.0, 2.0)
HISTOGRAM_BINS = 60
MEAN_OF_STEPS = 10
STEPS = "optimizer step"
HELD_OUT = {
    "F1": "self_verification/f1",
    "AUROC": "self_verification/auroc",
    "AUROC within problems": "self_verification/auroc_within",
}


def self_reward_figure(name: str, step: int, scores: Tensor, correct: Tensor, problem: Tensor) -> Figure:
    """How well self-rewards tell correct solutions from incorrect ones: distributions, ROC, reliability.

    Args:
        name: the set's name, for the title.
        step: optimizer steps behind the weights, for the title.
        scores: [N] self-rewards, not clamped.
        correct: [N] bool.
        problem: [N] int64, number of each solution's problem, from 0.
    """
    figure = blank_figure(18, 4.6)
    figure.suptitle(f"{name}: self-rewards of {len(scores):,} solutions at step {step}", fontsize=13)
    distribution, within, roc, reliability = figure.subplots(1, 4)
    _draw_distribution(distribution, scores, correct)
    _draw_within_problems(within, scores, correct, problem)
    _draw_roc(roc, scores, correct)
    _draw_reliability(reliability, scores, correct)
    return figure


def training_figure(
    step: int, training: Series, evaluations: Mapping[str, Series], phases: Mapping[str, int] | None = None
) -> Figure:
    """Training curves, and two panels for each evaluation set, against the optimizer step.

    Args:
        step: the latest step, for the title.
        training: (step, value) points of ``train/...`` metrics.
        evaluations: of each set, the points of its metrics; pass@1 and the votes are drawn, F1 and AUROCs beside them.
        phases: names of phases, and the steps at which they begin; each panel has a mark there.
    """
    judged = {
        name: {label: series[key] for label, key in HELD_OUT.items() if series.get(key)}
        for name, series in evaluations.items()
    }
    panels = 3 + len(evaluations) + sum(bool(curves) for curves in judged.values())
    columns = 2 if panels <= 4 else 3
    rows = -(-panels // columns)
    figure = blank_figure(5.2 * columns, 3.5 * rows)
    figure.suptitle(f"Training up to step {step}", fontsize=13)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[panels:]:
        unused.set_axis_off()
    reward, verification, length = axes[:3]
    decorate(reward, "Reward in training", STEPS, "mean verifier reward")
    _draw_curves(reward, {"reward": training.get("train/reward", [])}, "no training step yet")
    decorate(verification, "Self-verification in training", STEPS, "F1, AUROC")
    _draw_curves(
        verification,
        {
            "F1": training.get("train/self_reward/f1", []),
            "AUROC": training.get("train/self_reward/auroc", []),
            "AUROC within problems": training.get("train/self_reward/auroc_within", []),
        },
        "no training step yet",
    )
    verification.set_ylim(-0.03, 1.03)
    decorate(length, "Response length in training", STEPS, "mean response length (tokens)")
    _draw_curves(length, {"length": training.get("train/response_length_tokens", [])}, "no training step yet")
    free = iter(axes[3:])
    for name, series in evaluations.items():
        panel = next(free)
        decorate(panel, f"Evaluation on {name}", STEPS, "share of problems solved")
        _draw_evaluation(panel, series)
        if judged[name]:
            panel = next(free)
            decorate(panel, f"Self-verification on {name}", STEPS, "F1, AUROC")
            _draw_curves(panel, judged[name], "no evaluation yet", marked=True)
            panel.set_ylim(-0.03, 1.03)
    for panel in axes[:panels]:
        _mark_phases(panel, phases or {}, step)
    return figure


def render(figure: Figure) -> NDArray[np.uint8]:
    """The figure as an image, [height, width, 4] bytes of red, green, blue and opacity."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def blank_figure(width: float, height: float) -> Figure:
    """A figure of so many inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def decorate(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Give a panel its texts and its grid."""
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if x_label == STEPS:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def say(axes: Axes, text: str) -> None:
    """Write into a panel why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=11)


def _draw_distribution(axes: Axes, scores: Tensor, correct: Tensor) -> None:
    says_correct = scores > CORRECT_THRESHOLD
    right, wrong = says_correct[correct].float().mean(), (~says_correct[~correct]).float().mean()
    f1 = float(harmonic_mean(right.nan_to_num(0), wrong.nan_to_num(0)))
    title = f"Distribution, F1 {f1:.3f}" if len(scores) else "Distribution"
    decorate(axes, title, "self-reward (target: 0 incorrect, 1 correct)", "share of the class (%)")
    if not len(scores):
        return say(axes, "no solutions")
    low = float(np.clip(scores.min().item(), SCORE_LIMITS[0], 0))
    high = float(np.clip(scores.max().item(), 1, SCORE_LIMITS[1]))
    outside = int(((scores < low) | (scores > high)).sum())
    if outside:
        axes.set_xlabel(f"self-reward ({outside:,} beyond the axis are in its outer bins)")
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    classes = ((~correct, "incorrect", VERMILLION, "--", wrong), (correct, "correct", BLUE, "-", right))
    for rows, label, color, line, accuracy in classes:
        values = scores[rows].clamp(low, high).numpy()
        if not len(values):
            axes.plot([], [], color=color, linestyle=line, label=f"{label}: none")
            continue
        shares = 100 * np.histogram(values, edges)[0] / len(values)
        text = f"{label}: {len(values):,}, verdict right for {float(accuracy):.0%}"
        axes.stairs(shares, edges, color=color, linewidth=1.6, linestyle=line, label=text)
        axes.stairs(shares, edges, color=color, alpha=0.15, fill=True)
    axes.axvline(CORRECT_THRESHOLD, color=GREY, linestyle=":", linewidth=1.5, label=f"threshold {CORRECT_THRESHOLD}")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)  # room for the legend
    axes.legend(fontsize=8.5, loc="upper center", framealpha=0.9)


def _draw_within_problems(axes: Axes, scores: Tensor, correct: Tensor, problem: Tensor) -> None:
    """How far solutions score from the mean of their problem, of the problems with solutions of both classes."""
    counts = pair_counts(problem, scores, correct, int(problem.max()) + 1 if len(problem) else 0)
    value, problems = float(counts.auroc()), int(counts.mixed_problems())
    title = f"Within problems, AUROC {value:.3f}" if problems else "Within problems, AUROC undefined"
    decorate(axes, title, "self-reward - mean of its problem", "share of the class (%)")
    if not problems:
        return say(axes, "no problem with correct\nand incorrect solutions")
    centred, correct = centred_scores(scores.clamp(*SCORE_LIMITS), correct, problem)
    reach = max(float(centred.abs().max()), 0.1)
    edges = np.linspace(-reach, reach, HISTOGRAM_BINS + 1)
    for rows, label, color, line in ((~correct, "incorrect", VERMILLION, "--"), (correct, "correct", BLUE, "-")):
        shares = 100 * np.histogram(centred[rows].clamp(-reach, reach).numpy(), edges)[0] / int(rows.sum())
        text = f"{label}: {int(rows.sum()):,}, mean {float(centred[rows].mean()):+.3f}"
        axes.stairs(shares, edges, color=color, linewidth=1.6, linestyle=line, label=text)
        axes.stairs(shares, edges, color=color, alpha=0.15, fill=True)
    axes.axvline(0, color=GREY, linestyle=":", linewidth=1.5, label=f"mean of the problem ({problems:,} with both)")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)  # room for the legend
    axes.legend(fontsize=8.5, loc="upper center", framealpha=0.9)


def _draw_roc(axes: Axes, scores: Tensor, correct: Tensor) -> None:
    value = float(auroc(scores, correct))
    known = np.isfinite(value)
    title = f"ROC, AUROC {value:.3f}" if known else "ROC, AUROC undefined"
    decorate(axes, title, "share of incorrect solutions passed", "share of correct solutions passed")
    _unit_square(axes)
    if not len(scores):
        return say(axes, "no solutions")
    if not known:
        return say(axes, f"no {'incorrect' if correct.all() else 'correct'} solutions")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    axes.plot(*roc_curve(scores.numpy(), correct.numpy()), color=BLUE, linewidth=1.8, label="self-reward")
    above = scores > CORRECT_THRESHOLD
    axes.plot(
        float(above[~correct].float().mean()),
        float(above[correct].float().mean()),
        marker="o",
        markersize=8,
        color=VERMILLION,
        linestyle="none",
        clip_on=False,
        label=f"threshold {CORRECT_THRESHOLD}",
    )
    axes.legend(fontsize=8.5, loc="lower right")


def _draw_reliability(axes: Axes, scores: Tensor, correct: Tensor) -> None:
    error = float(expected_calibration_error(scores, correct))
    title = f"Reliability, ECE {error:.3f}" if len(scores) else "Reliability"
    decorate(axes, title, "self-reward, clamped to [0, 1]", "share of correct solutions")
    _unit_square(axes)
    if not len(scores):
        return say(axes, "no solutions")
    curve = reliability_curve(scores, correct)
    bins = len(curve.solutions)
    centres = (np.arange(bins) + 0.5) / bins
    shares = (curve.solutions / curve.solutions.sum()).numpy()
    axes.bar(centres, shares, width=0.9 / bins, color="0.85", label="share of solutions in the bin")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect calibration")
    filled = curve.solutions.numpy() > 0
    axes.plot(
        curve.confidence.numpy()[filled],
        curve.accuracy.numpy()[filled],
        color=BLUE,
        marker="o",
        linewidth=1.6,
        clip_on=False,
        label="mean of each bin",
    )
    axes.legend(fontsize=8.5, loc="best", framealpha=0.9)


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal", adjustable="box")


def _mark_phases(axes: Axes, phases: Mapping[str, int], last: int) -> None:
    """Dotted lines where phases begin, as far as the run has come."""
    for name, step in phases.items():
        if 0 < step <= last:
            axes.axvline(step, color=GREY, linestyle=":", linewidth=1)
            place = axes.get_xaxis_transform()
            axes.annotate(
                name, (step, 0.02), xycoords=place, color=GREY, fontsize=8, rotation=90, ha="right", va="bottom"
            )


def _draw_curves(axes: Axes, curves: Series, if_empty: str, marked: bool = False) -> None:
    """Noisy curves: each step faintly, their trailing mean on top; or a few points, which are marked."""
    curves = {label: points for label, points in curves.items() if points}
    if not curves:
        return say(axes, if_empty)
    for (label, points), color, line in zip(curves.items(), (BLUE, VERMILLION, GREEN), ("-", "--", "-."), strict=False):
        steps, values = (np.array(column, dtype=float) for column in zip(*points, strict=True))
        smooth = len(steps) > 2 * MEAN_OF_STEPS and not marked
        axes.plot(
            steps,
            values,
            color=color,
            linestyle=line,
            linewidth=1,
            marker="o" if marked else "." if len(steps) == 1 else None,
            markersize=5 if marked else None,
            alpha=0.3 if smooth else 1,
            label=None if smooth else label,
        )
        if smooth:
            axes.plot(
                steps,
                trailing_mean(values, MEAN_OF_STEPS),
                color=color,
                linestyle=line,
                linewidth=1.8,
                label=f"{label}, mean of {MEAN_OF_STEPS} steps",
            )
    axes.legend(fontsize=8.5)


def _draw_evaluation(axes: Axes, series: Series) -> None:
    shown = [name for name in row_order(series) if series[name] and _is_vote(name)]
    rules = [name.partition("@")[0] for name in shown]
    styles = {name: style for name, _, style in styles_of(rules)}
    for name, rule in (("pass@1", ""), *zip(shown, rules, strict=True)):
        if series.get(name):
            color, marker, line = styles.get(rule, (BLUE, "o", "-"))
            axes.plot(
                *zip(*series[name], strict=True),
                color=color,
                marker=marker,
                linestyle=line,
                markersize=5,
                linewidth=1.6,
                label=name.replace("_", " "),
            )
    if not axes.lines:
        return say(axes, "no evaluation yet")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
    axes.legend(fontsize=8.5, loc="upper center", ncols=2)


def _is_vote(metric: str) -> bool:
    """Whether it is ``<name of a rule>@<k>``."""
    return "@" in metric and "/" not in metric and not metric.startswith("pass@")


def styles_of(rules: Sequence[str]) -> Iterator[tuple[str, str, Style]]:
    """Name, label and style of each rule."""
    others = cycle(OF_OTHER_VOTES)
    for name in dict.fromkeys(rules):
        yield name, *(OF_VOTES[name] if name in OF_VOTES else (name.replace("_", " "), next(others)))
