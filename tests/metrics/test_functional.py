import pytest
import torch
from torch import Tensor

from laser_lightning.metrics import (
    auroc,
    expected_calibration_error,
    harmonic_mean,
    reliability_curve,
    standard_error,
)


def test_harmonic_mean() -> None:
    # 2 * 0.6 * 0.3 / 0.9 = 0.4; one zero gives 0; two zeros are 0 by definition; NaN stays NaN.
    a = torch.tensor([0.6, 1.0, 0.0, torch.nan])
    b = torch.tensor([0.3, 0.0, 0.0, 0.5])
    expected = torch.tensor([0.4, 0.0, 0.0, torch.nan])
    torch.testing.assert_close(harmonic_mean(a, b), expected, equal_nan=True)


def test_auroc_by_hand() -> None:
    # Correct: 0.9, 0.4. Incorrect: 0.4, 0.1, 0.7. 0.9 beats all three, 0.4 beats 0.1 and ties with 0.4:
    # (3 + 1 + 0.5) / 6 = 0.75.
    scores = torch.tensor([0.9, 0.4, 0.4, 0.1, 0.7])
    correct = torch.tensor([True, True, False, False, False])
    assert auroc(scores, correct).item() == 0.75
    assert auroc(-scores, correct).item() == 0.25
    assert auroc(torch.zeros(5), correct).item() == 0.5


def _slow_auroc(scores: list[float], correct: list[bool]) -> float:
    wins = [
        (high > low) + 0.5 * (high == low)
        for high, is_correct in zip(scores, correct, strict=True)
        if is_correct
        for low, is_other_correct in zip(scores, correct, strict=True)
        if not is_other_correct
    ]
    return sum(wins) / len(wins)


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
@pytest.mark.parametrize("levels", [3, 1_000_000])
def test_auroc_equals_the_pairwise_twin(scale: float, levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(-levels, levels, (200,), generator=generator) / levels * scale
    correct = torch.rand(200, generator=generator) < 0.3
    expected = _slow_auroc(scores.tolist(), correct.tolist())
    assert auroc(scores, correct).item() == pytest.approx(expected, abs=1e-6)


def test_auroc_tells_large_scores_apart() -> None:
    # A sigmoid in float32 is 1 for all four.
    scores = torch.tensor([100.0, 101.0, 102.0, 103.0])
    assert auroc(scores, torch.tensor([False, False, True, True])).item() == 1.0


def test_auroc_of_infinite_scores_and_of_both_zeros() -> None:
    # -inf < -0.0 = 0.0 < inf. Pairs: 0.0 beats -inf, ties with -0.0; inf beats both: 3.5 / 4.
    scores = torch.tensor([-torch.inf, -0.0, 0.0, torch.inf])
    assert auroc(scores, torch.tensor([False, False, True, True])).item() == 0.875


@pytest.mark.parametrize("correct", [torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)])
def test_auroc_without_a_class_is_undefined(correct: Tensor) -> None:
    assert auroc(torch.rand(3), correct).isnan()


def test_reliability_curve_by_hand() -> None:
    # Two bins: [0, 0.5) holds -3 -> 0 and 0.2; [0.5, 1] holds 0.5, 0.75, 1 and 7 -> 1.
    scores = torch.tensor([-3.0, 0.2, 0.5, 0.75, 1.0, 7.0])
    correct = torch.tensor([False, True, True, False, True, True])
    curve = reliability_curve(scores, correct, num_bins=2)
    assert curve.solutions.tolist() == [2, 4]
    # Means (0 + 0.2) / 2 = 0.1 and (0.5 + 0.75 + 1 + 1) / 4 = 0.8125; 1 of 2 and 3 of 4 are correct.
    torch.testing.assert_close(curve.confidence, torch.tensor([0.1, 0.8125]))
    torch.testing.assert_close(curve.accuracy, torch.tensor([0.5, 0.75]))
    # ECE: 2/6 * |0.5 - 0.1| + 4/6 * |0.75 - 0.8125| = 0.8/6 + 0.25/6 = 0.175.
    assert expected_calibration_error(scores, correct, num_bins=2).item() == pytest.approx(0.175, abs=1e-6)


def test_an_empty_bin_has_no_accuracy_and_no_weight() -> None:
    curve = reliability_curve(torch.tensor([0.1]), torch.tensor([True]), num_bins=2)
    assert curve.solutions.tolist() == [1, 0]
    assert curve.accuracy[1].isnan()
    assert curve.confidence[1].isnan()
    ece = expected_calibration_error(torch.tensor([0.1]), torch.tensor([True]), num_bins=2)
    assert ece.item() == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize("num_bins", [1, 7, 10])
def test_calibration_error_equals_the_slow_twin(num_bins: int) -> None:
    generator = torch.Generator().manual_seed(num_bins)
    scores = torch.randn(300, generator=generator) * 0.4 + 0.5
    correct = torch.rand(300, generator=generator) < 0.4
    expected = 0.0
    for index in range(num_bins):
        low, high = index / num_bins, (index + 1) / num_bins
        members = []
        for score, label in zip(scores.tolist(), correct.tolist(), strict=True):
            score = min(max(score, 0.0), 1.0)
            if low <= score < high or (score == 1.0 and index == num_bins - 1):
                members.append((score, label))
        if members:
            gap = sum(score for score, _ in members) - sum(label for _, label in members)
            expected += abs(gap) / 300
    assert expected_calibration_error(scores, correct, num_bins).item() == pytest.approx(expected, abs=1e-6)


def test_calibration_error_of_nothing_is_undefined() -> None:
    assert expected_calibration_error(torch.empty(0), torch.empty(0, dtype=torch.bool)).isnan()


def test_standard_error_by_hand() -> None:
    # Mean 0.5, squared deviations 4 * 0.25 = 1, variance 1 / 3, standard error sqrt(1 / 3 / 4) = 0.288675.
    assert standard_error(torch.tensor([0.0, 1.0, 1.0, 0.0])).item() == pytest.approx(0.288675, abs=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [0, 1])
def test_standard_error_of_less_than_two_values_is_undefined(size: int) -> None:
    assert standard_error(torch.ones(size)).isnan()
