"""Accuracy against solutions and tokens, read from the axes of the figures."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from laser_lightning.callbacks.curve_plots import evaluation_figure, vote_figure

Curve = dict[int, tuple[float, float, float]]
CURVE: Curve = {1: (0.5, 0.4, 0.6), 2: (0.6, 0.5, 0.7), 4: (0.7, 0.6, 0.8)}
COSTS = {"pass": 10.0, "maj": 10.0, "weighted_maj": 11.0, "best_of": 11.0, "best_rule": 11.0, "log_odds": 11.0}


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in figure.axes if axes.axison}


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def line(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    found: Any = next(line for line in axes.lines if line.get_label() == label)
    return list(found.get_xdata()), list(found.get_ydata())


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_accuracy_against_k() -> None:
    curve = {1: (0.5, 0.4, 0.6), 2: (0.6, 0.5, 0.7), 5: (0.7, 0.6, 0.8)}
    names = ("pass", "maj", "weighted_maj", "best_of")
    single: dict[str, dict[int, tuple[float, float, float]]] = {name: {1: (0.5, 0.4, 0.6)} for name in names}
    empty: dict[str, dict[int, tuple[float, float, float]]] = {name: {} for name in names}
    figure = evaluation_figure("test", 7, {"a": dict.fromkeys(names, curve), "b": single, "c": empty})
    assert figure.get_suptitle().startswith("test at step 7")
    shown = panels(figure)
    assert shown.keys() == {"a", "b", "c"}
    for label in ("majority", "weighted majority", "best of k", "pass@k"):
        assert line(shown["a"], label) == ([1, 2, 5], [0.5, 0.6, 0.7])
    assert shown["a"].get_xscale() == "log"
    assert [text.get_text() for text in shown["a"].get_xticklabels()] == ["1", "2", "5"]
    assert len(shown["a"].collections) == 3  # the shaded intervals
    own = panels(evaluation_figure("test", 7, {"a": dict.fromkeys((*names, "own_rule"), curve)}))["a"]
    assert line(own, "own rule") == ([1, 2, 5], [0.5, 0.6, 0.7])
    assert len(own.collections) == 4
    assert "one solution per problem" in texts(shown["b"])[0]
    assert "one solution per problem" in texts(shown["c"])[0]


def test_accuracy_against_tokens() -> None:
    curves = dict.fromkeys(("pass", "maj", "weighted_maj", "best_of"), CURVE)
    figure = evaluation_figure("test", 7, {"a": curves, "b": curves}, {"a": COSTS, "b": COSTS | {"maj": float("nan")}})
    assert figure.get_suptitle() == "test at step 7: accuracy against tokens, 95% intervals"
    shown = panels(figure)
    assert line(shown["a"], "majority") == ([10, 20, 40], [0.5, 0.6, 0.7])
    assert line(shown["a"], "best of k") == ([11, 22, 44], [0.5, 0.6, 0.7])
    assert texts(shown["b"]) == ["tokens are not known"]


def test_what_the_score_is_good_for() -> None:
    curves = dict.fromkeys(("pass", "maj", "weighted_maj", "best_of", "log_odds"), CURVE)
    figure = vote_figure("sums", 7, curves, COSTS)
    assert figure.get_suptitle() == "sums at step 7: what several solutions are good for, 95% intervals"
    by_samples, by_tokens = figure.axes
    assert line(by_samples, "best of k") == ([1, 2, 4], [0.5, 0.6, 0.7])
    assert line(by_tokens, "weighted majority") == ([11, 22, 44], [0.5, 0.6, 0.7])
    assert labels(figure) == ["majority", "weighted majority", "best of k", "one solution, pass@1 = 0.500"]
    # With the rule that is best on training problems that one is the weighted vote.
    figure = vote_figure("sums", 7, curves | {"best_rule": CURVE}, COSTS)
    assert labels(figure)[:3] == ["majority", "weighted vote (best rule)", "best of k"]


def test_one_solution_has_no_vote() -> None:
    one = {name: {1: CURVE[1]} for name in ("pass", "maj", "weighted_maj", "best_of")}
    figure = vote_figure("sums", 7, one, COSTS)
    assert all("one solution per problem" in texts(panel)[0] for panel in figure.axes)
    assert not figure.legends
