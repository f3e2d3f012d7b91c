"""Importance weights, worked out by hand."""

import math

import pytest
import torch

from laser_lightning.errors import UserError
from laser_lightning.losses import TruncatedImportance, importance_weights

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
