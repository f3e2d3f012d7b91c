"""Pure functions on scores and labels, used by the metrics and by the figures."""

from typing import NamedTuple

import torch
from torch import Tensor

from laser_lightning.shapes import Bool, Float, Int, Real


def harmonic_mean(a: Real[Tensor, "*shape"], b: Real[Tensor, "*shape"]) -> Real[Tensor, "*shape"]:
    """Harmonic mean ``2 a b / (a + b)`` of two non-negative tensors, elementwise; 0 where both are 0."""
    return torch.where(a + b == 0, torch.zeros_like(a * b), 2 * a * b / (a + b))


def auroc(scores: Real[Tensor, " N"], correct: Bool[Tensor, " N"]) -> Float[Tensor, ""]:
    """Probability that a correct solution scores above an incorrect one; ties count one half.

    The Mann-Whitney statistic, counted in integers over the distinct scores. Any real scores will do: no
    sigmoid is applied to them, which in float32 would tie all large ones.

    Args:
        scores: [N], real, without NaN.
        correct: [N], bool.

    Returns:
        A scalar in [0, 1]; NaN (undefined) when there is no correct or no incorrect solution.
    """
    levels, level = torch.unique(scores, return_inverse=True)
    positives = torch.bincount(level[correct], minlength=len(levels))
    negatives = torch.bincount(level[~correct], minlength=len(levels))
    negatives_below = negatives.cumsum(0) - negatives
    half_wins = (positives * (2 * negatives_below + negatives)).sum()
    return half_wins / (2 * positives.sum() * negatives.sum())


class ReliabilityCurve(NamedTuple):
    """What the scores promise and what holds, per bin of equal width; each [num_bins].

    Attributes:
        solutions: how many fall into the bin, int64.
        confidence: their mean clamped score; NaN in an empty bin.
        accuracy: their share of correct solutions; NaN in an empty bin.
    """

    solutions: Int[Tensor, " bins"]
    confidence: Float[Tensor, " bins"]
    accuracy: Float[Tensor, " bins"]


def reliability_curve(scores: Real[Tensor, " N"], correct: Bool[Tensor, " N"], num_bins: int = 10) -> ReliabilityCurve:
    """Sort scores into bins of equal width and compare the score with what holds.

    A bin is ``[i / num_bins, (i + 1) / num_bins)``, and the last one is closed. torchmetrics gives scores of
    exactly 1 a bin of their own, which clamped scores would fill.

    Args:
        scores: [N], real, without NaN; clamped to [0, 1].
        correct: [N], bool.
        num_bins: number of bins of equal width.
    """
    scores = scores.float().clamp(0, 1)
    bins = (scores * num_bins).long().clamp(max=num_bins - 1)
    count = torch.bincount(bins, minlength=num_bins)
    empty = scores.new_zeros(num_bins)
    confidence = empty.index_add(0, bins, scores) / count
    accuracy = torch.bincount(bins[correct], minlength=num_bins) / count
    return ReliabilityCurve(count, confidence, accuracy)


def expected_calibration_error(
    scores: Real[Tensor, " N"], correct: Bool[Tensor, " N"], num_bins: int = 10
) -> Float[Tensor, ""]:
    """Mean over solutions of the gap between confidence and accuracy of their bin (ECE, Naeini et al. 2015).

    Args:
        scores: [N], real, without NaN; clamped to [0, 1].
        correct: [N], bool.
        num_bins: number of bins of equal width, see ``reliability_curve``.

    Returns:
        A scalar in [0, 1]; NaN (undefined) without solutions.
    """
    curve = reliability_curve(scores, correct, num_bins)
    gap = (curve.accuracy - curve.confidence).abs().nan_to_num(0)
    return (curve.solutions * gap).sum() / curve.solutions.sum()


def squared_errors(scores: Real[Tensor, " N"], correct: Bool[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The squared distance of each score, clamped to [0, 1], from 1 for a correct solution and 0 for an incorrect one.

    Args:
        scores: [N], real, without NaN.
        correct: [N], bool.
    """
    return (scores.float().clamp(0, 1) - correct.float()).square()


def brier_score(scores: Real[Tensor, " N"], correct: Bool[Tensor, " N"]) -> Float[Tensor, ""]:
    """Mean squared error of the scores as probabilities (Brier 1950); 0 is perfect, and 0.25 is 0.5 for everything.

    Args:
        scores: [N], real, without NaN; clamped to [0, 1].
        correct: [N], bool.

    Returns:
        A scalar in [0, 1]; NaN (undefined) without solutions.
    """
    return squared_errors(scores, correct).mean()


def standard_error(values: Float[Tensor, " P"]) -> Float[Tensor, ""]:
    """Standard error of the mean: sample standard deviation divided by the root of the number of values.

    Two metrics of the same problems are compared in pairs, ``standard_error(a - b)``, where ``a`` and ``b``
    are the values of their ``per_problem()``: the spread of the problems' difficulty cancels.

    Args:
        values: [P], one value per problem.

    Returns:
        A scalar; NaN (undefined) for fewer than two values.
    """
    if len(values) < 2:
        return values.new_full((), torch.nan)
    return values.std() / len(values) ** 0.5
