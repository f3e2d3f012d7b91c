"""Figures of accuracy against the number of solutions, and against what they cost."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from laser_lightning.callbacks.plots import GREY, blank_figure, decorate, say, styles_of

Intervals = Mapping[int, tuple[float, float, float]]
"""At each k a value and the ends of its interval."""

SOLUTIONS, TOKENS, SOLVED = "solutions per problem, k", "tokens per problem", "share of problems solved"


def evaluation_figure(
    stage: str,
    step: int,
    curves: Mapping[str, Mapping[str, Intervals]],
    costs: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Accuracy against the number of solutions k, or their tokens, a panel per set, with bootstrap intervals shaded.

    Args:
        stage: ``val`` or ``test``, for the title.
        step: optimizer steps behind the weights, for the title.
        curves: by panel and name (pass, and those of the vote rules), at each k the value and its interval.
        costs: by panel and name, the tokens of one more solution: curves are drawn against those of k solutions. None
            draws them against k.
    """
    columns = min(len(curves), 2 if len(curves) <= 4 else 3)
    rows = -(-len(curves) // columns)
    figure = blank_figure(5.2 * columns, 4.4 * rows)
    against = "k" if costs is None else "tokens"
    figure.suptitle(f"{stage} at step {step}: accuracy against {against}, 95% intervals", fontsize=13)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[len(curves) :]:
        unused.set_axis_off()
    for panel, (name, own) in zip(axes, curves.items(), strict=False):
        decorate(panel, name, SOLUTIONS if costs is None else TOKENS, SOLVED)
        draw_intervals(panel, own, None if costs is None else costs[name])
    labels = next((panel.get_legend_handles_labels() for panel in axes if panel.lines), None)
    if labels is not None:  # below the panels, which intervals fill
        figure.legend(*labels, loc="outside lower center", ncols=4, fontsize=9)
    return figure


def vote_figure(name: str, step: int, curves: Mapping[str, Intervals], costs: Mapping[str, float]) -> Figure:
    """What the score is good for: majority, weighted vote and best of k, against k and against tokens.

    The weighted vote is that of the rule that is best on training problems (``BestRule``), where the evaluation has
    it, and weighted majority elsewhere: no rule is chosen by the problems that are drawn here.

    Args:
        name: the set's name, for the title.
        step: optimizer steps behind the weights, for the title.
        curves: by name (pass, and those of the vote rules), at each k the value and its interval.
        costs: by name, the tokens of one more solution.
    """
    chosen = {rule: curves[rule] for rule in shown_rules(curves)}
    figure = blank_figure(11, 4.6)
    figure.suptitle(f"{name} at step {step}: what several solutions are good for, 95% intervals", fontsize=13)
    panels = figure.subplots(1, 2, sharey=True)
    for panel, label, own in zip(panels, (SOLUTIONS, TOKENS), (None, costs), strict=True):
        decorate(panel, "", label, SOLVED if own is None else "")
        draw_intervals(panel, chosen, own)
        if panel.lines:
            one = curves["pass"][1][0]
            panel.axhline(one, color=GREY, linestyle=(0, (1, 3)), label=f"one solution, pass@1 = {one:.3f}")
    if panels[0].lines:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return figure


def shown_rules(curves: Mapping[str, object]) -> list[str]:
    """The rules that the figure of the votes shows: majority, the weighted vote and best of k, as far as there are."""
    weighted = "best_rule" if "best_rule" in curves else "weighted_maj"
    return [rule for rule in ("maj", weighted, "best_of") if rule in curves]


def draw_intervals(axes: Axes, curves: Mapping[str, Intervals], costs: Mapping[str, float] | None = None) -> None:
    """Curves of accuracy with their intervals.

    Args:
        axes: the panel.
        curves: by name, at each k the value and its interval.
        costs: by name, the tokens of one more solution; None draws against k.
    """
    if costs is not None and not np.isfinite([costs[name] for name in curves]).all():
        return say(axes, "tokens are not known")
    if not any(len(points) > 1 for points in curves.values()):
        return say(axes, "one solution per problem:\nnothing to choose from")
    drawn: list[tuple[str, str, tuple]] = [*styles_of([name for name in curves if name != "pass"])]
    if "pass" in curves:
        drawn.append(("pass", "pass@k", (GREY, None, (0, (1, 3)))))
    for name, label, (color, marker, line) in drawn:
        ks = sorted(curves[name])
        points = ks if costs is None else [k * costs[name] for k in ks]
        value, low, high = zip(*(curves[name][k] for k in ks), strict=True)
        axes.plot(points, value, color=color, marker=marker, linestyle=line, markersize=5, linewidth=1.6, label=label)
        if name != "pass":
            # The intervals overlap, since they are of the same problems: their edges tell them apart.
            axes.fill_between(points, low, high, color=color, alpha=0.06, linewidth=0)
            for edge in (low, high):
                axes.plot(points, edge, color=color, linestyle=line, linewidth=0.8, alpha=0.5)
    axes.set_xscale("log", base=2)
    if costs is None:
        axes.set_xticks(ks, [str(k) for k in ks], minor=False)
    else:
        axes.xaxis.set_major_formatter("{x:.0f}")
    axes.minorticks_off()
