"""Isotonic regression: by hand, and against the best of all rising sequences."""

from fractions import Fraction
from itertools import combinations, pairwise

import pytest
import torch

from laser_lightning.metrics.votes.isotonic import interpolate, isotonic_curve


def test_by_hand() -> None:
    # In the order of scores 0 | 1 0 | 1 1: the violators pool to 1/2.
    scores = torch.tensor([0.5, 0.25, 0.125, 1.0, 0.75])
    correct = torch.tensor([False, True, False, True, True])
    assert isotonic_curve(scores, correct) == [(0.125, 0.0), (0.25, 0.5), (0.5, 0.5), (0.75, 1.0), (1.0, 1.0)]


def test_equal_scores_are_one_level() -> None:
    # 0.5 three times, two of them right.
    curve = isotonic_curve(torch.tensor([0.5, 0.5, 0.5]), torch.tensor([True, False, True]))
    assert curve == [(0.5, 2 / 3)]


def test_scores_that_are_upside_down_say_nothing() -> None:
    curve = isotonic_curve(torch.tensor([0.25, 0.5, 0.75, 1.0]), torch.tensor([True, True, False, False]))
    assert curve == [(0.25, 0.5), (1.0, 0.5)]


def twin(correct: list[bool]) -> list[float]:
    """The best of all rising step functions over all ways to cut the sequence into blocks; slow."""
    best, found = Fraction(10**9), [0.0]
    for cuts in range(len(correct)):
        for places in combinations(range(1, len(correct)), cuts):
            blocks = [correct[a:b] for a, b in pairwise((0, *places, len(correct)))]
            means = [Fraction(sum(block), len(block)) for block in blocks]
            error = sum(sum((mean - hit) ** 2 for hit in block) for mean, block in zip(means, blocks, strict=True))
            if all(a <= b for a, b in pairwise(means)) and error < best:
                best = Fraction(error)
                found = [float(mean) for mean, block in zip(means, blocks, strict=True) for _ in block]
    return found


@pytest.mark.parametrize("seed", range(4))
def test_fits_best_of_all_rising_sequences(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randperm(10, generator=generator).double()
    correct = torch.rand(10, generator=generator) < 0.2 + 0.06 * scores
    curve = isotonic_curve(scores, correct)
    ordered = correct[scores.argsort()].tolist()
    assert interpolate(curve, torch.arange(10.0)).tolist() == pytest.approx(twin(ordered))
