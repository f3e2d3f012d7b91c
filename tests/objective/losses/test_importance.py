"""Importance weights, worked out by hand."""

import math

import pytest
import torch

from laser_lightning.errors import UserError
from laser_lightning.losses import ImportanceCorrection, MaskedImportance, TruncatedImportance, importance_weights
from laser_lightning.objective.losses.importance import correct_importance

# Trainer over engine: 1/2, 3/2, 4 in a response of three tokens, and 2, 1/4 in one of two.
TRAINER = torch.tensor([[0.1, 0.3, 0.4], [0.2, 0.1, 0.9]]).log().requires_grad_()
ENGINE = torch.tensor([[0.2, 0.2, 0.1], [0.1, 0.4, 0.1]]).log()
MASK = torch.tensor([[True, True, True], [True, True, False]])


def test_of_tokens() -> None:
    weights, capped = importance_weights(TRAINER, ENGINE, MASK, "token", 2.0)
    torch.testing.assert_close(weights[MASK], torch.tensor([0.5, 1.5, 2.0, 2.0, 0.25]))
    assert capped.tolist() == [[False, False, True], [False, False, False]]
    assert not weights.requires_grad


def test_of_sequences() -> None:
    # 1/2 * 3/2 * 4 = 3, cut to 2; 2 * 1/4 = 1/2, whatever the place behind the response holds.
    weights, capped = importance_weights(TRAINER, ENGINE, MASK, "sequence", 2.0)
    torch.testing.assert_close(weights[MASK], torch.tensor([2.0, 2.0, 2.0, 0.5, 0.5]))
    assert capped.tolist() == [[True, True, True], [False, False, False]]
    assert not weights.requires_grad


@pytest.mark.parametrize("importance", ["token", "sequence"])
def test_what_would_overflow_is_capped(importance: str) -> None:
    mask = torch.tensor([[True]])
    weights, capped = importance_weights(torch.tensor([[0.0]]), torch.tensor([[-1e4]]), mask, importance, 5.0)  # type: ignore[arg-type]
    assert weights.tolist() == [[5.0]]
    assert capped.tolist() == [[True]]


def test_a_cap_below_one_is_refused() -> None:
    TruncatedImportance(cap=1.0)
    TruncatedImportance(cap=math.inf)
    with pytest.raises(UserError, match=r"update\.importance\.cap is 0\.9"):
        TruncatedImportance(cap=0.9)


@pytest.mark.parametrize(
    ("correction", "weights", "capped"),
    [
        # the geometric means of 1/2, 3/2, 4 (product 3) and of 2, 1/4 (product 1/2)
        (TruncatedImportance("geometric"), [1.442250] * 3 + [0.707107] * 2, [False] * 5),
        (TruncatedImportance(cap=3.0, floor=0.4), [0.5, 1.5, 3.0, 2.0, 0.4], [False, False, True, False, True]),
        # IcePop: 4 is above the bounds, and 1/4 below them
        (MaskedImportance(low=0.4, high=3.0), [0.5, 1.5, 0.0, 2.0, 0.0], [False, False, True, False, True]),
        # MIS: the response of 3 is left out whole, that of 1/2 weighs it
        (MaskedImportance("sequence", low=0.0, high=2.5), [0.0] * 3 + [0.5] * 2, [True] * 3 + [False] * 2),
        (MaskedImportance("geometric", low=0.8, high=2.0), [1.442250] * 3 + [0.0] * 2, [False] * 3 + [True] * 2),
    ],
)
def test_corrections_by_hand(correction: ImportanceCorrection, weights: list[float], capped: list[bool]) -> None:
    found = correct_importance(correction, TRAINER, ENGINE, MASK)
    torch.testing.assert_close(found.weights[MASK], torch.tensor(weights), rtol=0, atol=1e-6)
    assert found.capped[MASK].tolist() == capped
    assert not found.capped[1, 2]
    assert not found.weights.requires_grad


def test_bounds_without_1_between_them_are_refused() -> None:
    for low, high in ((1.1, 2.0), (0.5, 0.9), (-0.1, 2.0)):
        with pytest.raises(UserError, match=f"low = {low} and high = {high}"):
            MaskedImportance(low=low, high=high)
    with pytest.raises(UserError, match=r"update\.importance\.floor is 1\.5"):
        TruncatedImportance(floor=1.5)
