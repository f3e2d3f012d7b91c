"""What the figures show, read from their axes; the values are worked out by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from laser_lightning.callbacks.plots import (
    HISTOGRAM_BINS,
    render,
    self_reward_figure,
    training_figure,
)
from laser_lightning.callbacks.plotted_numbers import centred_scores, roc_curve, trailing_mean


def texts(axes: Axes) -> str:
    legend = axes.get_legend()
    labels = [] if legend is None else [text.get_text() for text in legend.get_texts()]
    return " | ".join([axes.get_title(), axes.get_xlabel(), *labels, *(text.get_text() for text in axes.texts)])


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in figure.axes if axes.axison}


def line(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    found: Any = next(line for line in axes.lines if line.get_label() == label)
    return list(found.get_xdata()), list(found.get_ydata())


# Correct: 0.9, 0.7, 0.3; incorrect: 0.7, 0.1. Of the 6 pairs the correct one is above in 4 and equal in 1: 4.5 / 6.
SCORES = torch.tensor([0.9, 0.7, 0.3, 0.7, 0.1])
CORRECT = torch.tensor([True, True, True, False, False])
PROBLEM = torch.tensor([0, 1, 0, 0, 1])


def test_centred_scores_are_of_mixed_problems() -> None:
    scores, problem = torch.tensor([0.5, 4.0, 1.0, 5.0, 0.0]), torch.tensor([0, 2, 0, 2, 0])
    centred, correct = centred_scores(scores, torch.tensor([True, True, False, True, False]), problem)
    assert centred.tolist() == [0.0, 0.5, -0.5]  # of problem 2 all are right
    assert correct.tolist() == [True, False, False]


def test_roc_curve_counts_equal_scores_together() -> None:
    false_positives, true_positives = roc_curve(SCORES.numpy(), CORRECT.numpy())
    # at 0.9: one correct; at 0.7: one of each more; at 0.3: the last correct; at 0.1: the last incorrect
    assert false_positives.tolist() == [0, 0, 0.5, 0.5, 1]
    assert true_positives.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


def test_trailing_mean() -> None:
    values = np.array([np.nan, 1.0, 3.0, np.nan, 5.0, 7.0])
    # windows: {nan}, {nan 1}, {1 3}, {3 nan}, {nan 5}, {5 7}
    np.testing.assert_allclose(trailing_mean(values, 2), [np.nan, 1, 2, 3, 5, 6])
    np.testing.assert_allclose(trailing_mean(values, 10), [np.nan, 1, 2, 2, 3, 4])


def test_the_four_panels() -> None:
    figure = self_reward_figure("sums", 40, SCORES, CORRECT, PROBLEM)
    distribution, within, roc, reliability = figure.axes

    assert figure.get_suptitle() == "sums: self-rewards of 5 solutions at step 40"
    # verdicts right: 2 of 3 correct, 1 of 2 incorrect; F1 = 2 (2/3) (1/2) / (2/3 + 1/2) = 4/7
    assert distribution.get_title() == "Distribution, F1 0.571"
    assert "correct: 3, verdict right for 67%" in texts(distribution)
    assert "incorrect: 2, verdict right for 50%" in texts(distribution)
    assert "threshold 0.5" in texts(distribution)
    heights = [patch.get_data().values for patch in distribution.patches]
    assert [len(values) for values in heights] == [HISTOGRAM_BINS] * 4
    assert [values.sum() for values in heights] == pytest.approx([100] * 4)  # percent of each class
    # problem 0: 0.9 wins against 0.7, 0.3 loses; problem 1: 0.7 wins against 0.1
    assert within.get_title() == "Within problems, AUROC 0.667"
    # the means are 1.9 / 3 and 0.4: correct ones are 0.267, -0.333 and 0.3 off, incorrect ones 0.067 and -0.3
    assert "correct: 3, mean +0.078" in texts(within)
    assert "incorrect: 2, mean -0.117" in texts(within)
    assert "mean of the problem (2 with both)" in texts(within)
    assert [patch.get_data().values.sum() for patch in within.patches] == pytest.approx([100] * 4)
    assert roc.get_title() == "ROC, AUROC 0.750"
    assert line(roc, "threshold 0.5") == ([0.5], [pytest.approx(2 / 3)])
    # bins: 0.1 (wrong), 0.3 (right), 0.7 (one of two), 0.9 (right); gaps 0.1, 0.7, 2 x 0.2 and 0.1: 1.3 / 5
    assert reliability.get_title() == "Reliability, ECE 0.260"
    confidence, accuracy = line(reliability, "mean of each bin")
    assert confidence == pytest.approx([0.1, 0.3, 0.7, 0.9])
    assert accuracy == pytest.approx([0, 1, 0.5, 1])


@pytest.mark.parametrize(
    ("correct", "absent"), [(True, "incorrect"), (False, "correct")], ids=["all correct", "all incorrect"]
)
def test_an_absent_class_is_named(correct: bool, absent: str) -> None:
    figure = self_reward_figure("sums", 0, SCORES, torch.full((5,), correct), PROBLEM)
    distribution, within, roc, reliability = figure.axes

    assert f"{absent}: none" in texts(distribution)
    assert "no problem with correct" in texts(within)
    assert "AUROC undefined" in texts(roc)
    assert f"no {absent} solutions" in texts(roc)
    assert "Reliability, ECE" in texts(reliability)
    assert render(figure).shape[2] == 4


def test_no_solutions_at_all() -> None:
    figure = self_reward_figure("sums", 0, SCORES[:0], CORRECT[:0], PROBLEM[:0])
    assert ["no solutions" in texts(axes) for axes in figure.axes] == [True, False, True, True]
    assert render(figure).size


def test_scores_beyond_the_axis_are_counted() -> None:
    scores = torch.tensor([-7.0, 0.2, 1.5, torch.inf, 0.9])
    figure = self_reward_figure("sums", 0, scores, CORRECT, PROBLEM)
    assert "(2 beyond the axis are in its outer bins)" in texts(figure.axes[0])
    heights = [patch.get_data().values for patch in figure.axes[0].patches]
    assert [values.sum() for values in heights] == pytest.approx([100] * 4)
    assert render(figure).size


def test_training_curves() -> None:
    steps = range(30)
    training = {
        "train/reward": [(step, float(step)) for step in steps],
        "train/self_reward/f1": [(step, 0.5) for step in steps],
        "train/self_reward/auroc": [(step, torch.nan) for step in steps],
        "train/response_length_tokens": [(0, 12.0)],
    }
    votes = {"pass@1": [(0, 0.2), (30, 0.4)], "maj@4": [(0, 0.3), (30, 0.5)], "pass@1/sum": [(0, 0.1), (30, 0.2)]}
    figure = training_figure(30, training, {"sums": votes, "more": {}})
    found = panels(figure)

    assert figure.get_suptitle() == "Training up to step 30"
    assert list(found) == [
        "Reward in training",
        "Self-verification in training",
        "Response length in training",
        "Evaluation on sums",
        "Evaluation on more",
    ]
    # the mean of 20 ... 29
    assert line(found["Reward in training"], "reward, mean of 10 steps")[1][-1] == pytest.approx(24.5)
    assert line(found["Response length in training"], "length") == ([0], [12])
    assert "tokens" in found["Response length in training"].get_ylabel()
    assert line(found["Evaluation on sums"], "pass@1") == ([0, 30], [0.2, 0.4])
    assert line(found["Evaluation on sums"], "maj@4") == ([0, 30], [0.3, 0.5])
    assert len(found["Evaluation on sums"].lines) == 2  # kinds have no curve
    assert "no evaluation yet" in texts(found["Evaluation on more"])
    assert {axes.get_xlabel() for axes in found.values()} == {"optimizer step"}
    assert render(figure).size


def test_votes_of_any_rule_have_a_curve() -> None:
    names = ("best_of@4", "own_rule@4", "maj@4", "second@4", "pass@4", "weighted_maj@4", "pass@1")
    series = {name: [(0, 0.1 * place), (30, 0.5)] for place, name in enumerate(names)}
    panel = panels(training_figure(30, {}, {"sums": series}))["Evaluation on sums"]
    shown = ["pass@1", "maj@4", "weighted maj@4", "best of@4", "own rule@4", "second@4"]
    assert [line.get_label() for line in panel.lines] == shown
    assert line(panel, "own rule@4") == ([0, 30], [0.1, 0.5])
    assert len({(line.get_color(), line.get_marker()) for line in panel.lines}) == 6


def test_held_out_self_verification_and_phases() -> None:
    judged = {"self_verification/f1": [(0, 0.0), (30, 0.6)], "self_verification/auroc": [(0, 0.5), (30, 0.9)]}
    judged["self_verification/auroc_within"] = [(0, 0.4), (30, 0.7)]
    phases = {"self-rewarding": 10, "integrated": 20, "never": 40}
    figure = training_figure(30, {}, {"sums": {"pass@1": [(0, 0.2)]}, "more": judged}, phases)
    found = panels(figure)

    # nothing is known of the first set's self-rewards (a supervised run, say)
    assert list(found)[3:] == ["Evaluation on sums", "Evaluation on more", "Self-verification on more"]
    panel = found["Self-verification on more"]
    assert line(panel, "F1") == ([0, 30], [0.0, 0.6])
    assert line(panel, "AUROC") == ([0, 30], [0.5, 0.9])
    assert line(panel, "AUROC within problems") == ([0, 30], [0.4, 0.7])
    assert {line.get_marker() for line in panel.lines[:3]} == {"o"}
    for axes in found.values():
        marks = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]  # type: ignore[index]
        assert marks == [10, 20]
        assert {"self-rewarding", "integrated"} <= {text.get_text() for text in axes.texts}
        assert "never" not in texts(axes)
    assert render(figure).size


def test_a_phase_that_a_run_begins_with_has_no_mark() -> None:
    figure = training_figure(5, {}, {}, {"integrated": 0})
    assert [len(axes.lines) for axes in panels(figure).values()] == [0, 0, 0]


def test_training_figure_before_the_first_step() -> None:
    found = panels(training_figure(0, {}, {}))
    assert ["no training step yet" in texts(axes) for axes in found.values()] == [True] * 3
