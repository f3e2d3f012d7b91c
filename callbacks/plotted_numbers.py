"""What figures draw, as arrays."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def centred_scores(scores: Tensor, correct: Tensor, problem: Tensor) -> tuple[Tensor, Tensor]:
    """Scores minus the mean of their problem, of the problems with both correct and incorrect solutions.

    Args:
        scores: [N], finite.
        correct: [N] bool.
        problem: [N] int64, number of each solution's problem, from 0.

    Returns:
        The centred scores [M] of those problems, and whether each solution is correct [M], in the order of the rows.
    """
    sizes = problem.bincount()
    right = problem[correct].bincount(minlength=len(sizes))
    means = torch.zeros(len(sizes)).index_add(0, problem, scores) / sizes
    mixed = ((right > 0) & (right < sizes))[problem]
    return (scores - means[problem])[mixed], correct[mixed]


def roc_curve(scores: NDArray[np.float32], correct: NDArray[np.bool_]) -> tuple[NDArray, NDArray]:
    """The ROC curve of "a score at or above t says correct", for every t; solutions of equal score count together.

    Args:
        scores: [N], real, without NaN.
        correct: [N].

    Returns:
        False and true positive rates [T], both from 0 to 1.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_level = np.append(np.diff(scores[order]) != 0, True)
    true_positives = np.cumsum(correct[order])[last_of_level]
    false_positives = np.cumsum(~correct[order])[last_of_level]
    return (
        np.append(0, false_positives) / false_positives[-1],
        np.append(0, true_positives) / true_positives[-1],
    )


def trailing_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """The mean of each value and those before it, ``window`` in all; NaN entries are left out.

    Args:
        values: [N].
        window: at least 1.

    Returns:
        [N], NaN where there is nothing to average.
    """
    known = np.isfinite(values)
    sums = np.cumsum(np.where(known, values, 0.0))
    counts = np.cumsum(known).astype(float)
    sums[window:], counts[window:] = sums[window:] - sums[:-window], counts[window:] - counts[:-window]
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)
