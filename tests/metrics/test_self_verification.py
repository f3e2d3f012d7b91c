import math

import pytest
import torch

from laser_lightning.metrics import SelfVerification

KEYS = ["accuracy_on_correct", "accuracy_on_incorrect", "f1", "auroc", "ece", "brier", "correct", "incorrect"]


def _computed(scores: list[float], rewards: list[float], **options: float) -> dict[str, float]:
    metric = SelfVerification(**options)  # type: ignore[arg-type]
    metric.update(torch.tensor(scores), torch.tensor(rewards))
    return {name: value.item() for name, value in metric.compute().items()}


def test_values_by_hand() -> None:
    # Correct: 1.2, 0.5, 0.9. Only 0.5 is not above the threshold: 2/3.
    # Incorrect: -0.4, 0.6. -0.4 is rejected: 1/2.
    # F1: 2 * 2/3 * 1/2 / (7/6) = 4/7. (The F1 of precision and recall would be 2/3.)
    # AUROC: 1.2 and 0.9 beat both, 0.5 beats -0.4 only: 5/6.
    # ECE, ten bins: 1.2 -> 1 and 0.9 share the last, |1.9 - 2| = 0.1; 0.5 misses by 0.5, -0.4 -> 0 by 0,
    # and 0.6 by 0.6: 1.2 / 5 = 0.24.
    # Brier: 0, 0.25, 0.01, 0 and 0.36, of 5: 0.124.
    values = _computed([1.2, 0.5, 0.9, -0.4, 0.6], [1, 1, 1, 0, 0])
    assert list(values) == KEYS
    assert values["accuracy_on_correct"] == pytest.approx(2 / 3, abs=1e-6)
    assert values["accuracy_on_incorrect"] == 0.5
    assert values["f1"] == pytest.approx(4 / 7, abs=1e-6)
    assert values["auroc"] == pytest.approx(5 / 6, abs=1e-6)
    assert values["ece"] == pytest.approx(0.24, abs=1e-6)
    assert values["brier"] == pytest.approx(0.124, abs=1e-6)
    assert (values["correct"], values["incorrect"]) == (3, 2)


def test_threshold_is_strict_and_configurable() -> None:
    assert _computed([0.5, 0.0], [1, 0])["accuracy_on_correct"] == 0.0
    assert _computed([0.5, 0.0], [1, 0], threshold=0.25)["accuracy_on_correct"] == 1.0


def test_num_bins_reaches_the_calibration_error() -> None:
    # One bin: |0.2 + 0.8 - 1| / 2 = 0. Two bins: (0.2 + 0.2) / 2 = 0.2.
    assert _computed([0.2, 0.8], [0, 1], num_bins=1)["ece"] == pytest.approx(0.0, abs=1e-6)
    assert _computed([0.2, 0.8], [0, 1], num_bins=2)["ece"] == pytest.approx(0.2, abs=1e-6)


def test_real_rewards_split_at_one_half() -> None:
    values = _computed([1.0, 1.0, 0.0], [0.51, 0.5, -2.0])
    assert (values["correct"], values["incorrect"]) == (1, 2)
    assert values["accuracy_on_incorrect"] == 0.5


@pytest.mark.parametrize(
    ("reward", "present", "absent"),
    [
        (1.0, "accuracy_on_correct", "accuracy_on_incorrect"),
        (0.0, "accuracy_on_incorrect", "accuracy_on_correct"),
    ],
)
def test_an_absent_class_is_undefined_and_f1_is_zero(reward: float, present: str, absent: str) -> None:
    values = _computed([0.9, 0.1], [reward, reward])
    assert values[present] == 0.5
    assert math.isnan(values[absent])
    assert values["f1"] == 0.0
    assert math.isnan(values["auroc"])
    assert values["ece"] == pytest.approx(0.5, abs=1e-6)  # |0.9 - r| / 2 + |0.1 - r| / 2 for either reward r


def test_both_accuracies_zero_give_f1_zero() -> None:
    assert _computed([0.0, 1.0], [1, 0])["f1"] == 0.0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_data_is_undefined() -> None:
    metric = SelfVerification()
    for _ in range(2):
        values = metric.compute()
        assert all(values[name].isnan() for name in KEYS[:6])
        assert (values["correct"], values["incorrect"]) == (0, 0)
        metric.update(torch.empty(0), torch.empty(0))


def test_counts_are_integers() -> None:
    metric = SelfVerification()
    metric.update(torch.ones(2), torch.ones(2))
    assert metric.compute()["correct"].dtype == torch.int64


def test_curves_hold_all_rows_in_order() -> None:
    metric = SelfVerification()
    metric.update(torch.tensor([1.5, -2.0]), torch.tensor([1.0, 0.0]))
    metric.update(torch.tensor([0.25]), torch.tensor([1.0]))
    scores, correct = metric.curves()
    assert scores.tolist() == [1.5, -2.0, 0.25]  # not clamped
    assert correct.dtype == torch.bool
    assert correct.tolist() == [True, False, True]


def test_merged_halves_equal_the_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, rewards = torch.randn(101, generator=generator), torch.rand(101, generator=generator).round()
    whole, left, right = SelfVerification(), SelfVerification(), SelfVerification()
    whole.update(scores, rewards)
    left.update(scores[:13], rewards[:13])
    right.update(scores[13:], rewards[13:])
    left.merge_state(right)
    for name, value in whole.compute().items():
        torch.testing.assert_close(left.compute()[name], value)


def test_reset_forgets() -> None:
    metric = SelfVerification()
    metric.update(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]))
    metric.compute()
    metric.reset()
    metric.update(torch.tensor([0.0]), torch.tensor([0.0]))
    assert metric.compute()["accuracy_on_incorrect"] == 1.0
    assert metric.compute()["correct"] == 0


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="threshold must be a finite number, but is nan"):
        SelfVerification(threshold=math.nan)
    with pytest.raises(ValueError, match="num_bins must be at least 1, but is 0"):
        SelfVerification(num_bins=0)
