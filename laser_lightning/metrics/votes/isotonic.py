"""Isotonic regression: which probability of being correct a score stands for, if a higher score never means less."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.shapes import Bool, Float

Point = tuple[float, float]
"""A score, and the probability of being correct that it stands for."""


def isotonic_curve(scores: Float[Tensor, " N"], correct: Bool[Tensor, " N"]) -> list[Point]:
    """The rising curve that fits correctness best by squares (pool adjacent violators, Ayer et al. 1955).

    Each pooled block of scores has the share of correct solutions in it as its probability.

    Args:
        scores: [N] without NaN, N at least 1.
        correct: [N] whether each solution is correct.

    Returns:
        The first and the last score of each block with its probability; one point for a block of one score.
    """
    levels, level = scores.double().unique(return_inverse=True)
    right = level[correct].bincount(minlength=len(levels)).tolist()
    sizes = level.bincount(minlength=len(levels)).tolist()
    blocks: list[tuple[int, int, int, int]] = []  # correct and all solutions, first and last level
    for number, (hits, size) in enumerate(zip(right, sizes, strict=True)):
        block = (hits, size, number, number)
        # Shares are compared as integers: equal ones pool, whatever rounding would say.
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2], block[3])
        blocks.append(block)
    values = levels.tolist()
    ends = [(values[end], hits / size) for hits, size, *block in blocks for end in dict.fromkeys(block)]
    return ends


def interpolate(curve: Sequence[Point], scores: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """[N] float64, the curve at scores [N]: straight between its points, level outside of them."""
    xs, ys = torch.tensor(curve, dtype=torch.float64, device=scores.device).T.contiguous()
    at = scores.double().clamp(xs[0], xs[-1])
    right = torch.searchsorted(xs, at).clamp(min=1, max=len(xs) - 1) if len(xs) > 1 else torch.zeros_like(at).long()
    left = (right - 1).clamp(min=0)
    width = xs[right] - xs[left]
    share = torch.where(width > 0, (at - xs[left]) / width.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    return ys[left] + share * (ys[right] - ys[left])


def check_curve(curve: Sequence[Point], key: str) -> list[Point]:
    """The points as pairs.

    Raises:
        UserError: if there is none, or scores do not rise, or probabilities fall or lie outside of [0, 1].
    """
    points = [(float(score), float(probability)) for score, probability in curve]
    rises = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise(points))
    if not points or not rises or not 0 <= points[0][1] <= points[-1][1] <= 1:
        raise UserError(
            f"{key} must be points (score, probability) with rising scores, and probabilities between 0 and 1 that do "
            f"not fall; it is {points}."
        )
    return points
