"""CISPO by hand: weights are bounded, and every token keeps a gradient."""

import math

import pytest
import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.losses import CISPOPolicyLoss, PolicyTokens


def tokens_of(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> PolicyTokens:
    """The record of a micro-batch whose solutions have one advantage each."""
    nothing = torch.zeros(mask.shape)
    return PolicyTokens(
        log_probs, old_log_probs, advantages[:, None].expand(mask.shape), mask, nothing.long(), entropy=nothing
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "clip_low", "clip_high", "weight", "clipped"),
    [
        # within the bounds the weight is the ratio
        (1.1, 2.0, 1.0, 0.2, 1.1, False),
        (1.0, -1.5, 1.0, 0.2, 1.0, False),
        # above them it is the bound, whatever the sign, where PPO would have no gradient or an unbounded one
        (1.5, 2.0, 1.0, 0.2, 1.2, True),
        (1.5, -2.0, 1.0, 0.2, 1.2, True),
        # no lower bound, unless one is given
        (0.5, -2.0, 1.0, 0.2, 0.5, False),
        (0.5, -2.0, 0.2, 0.2, 0.8, True),
        (0.5, 0.0, 1.0, 0.2, 0.5, False),
    ],
)
def test_by_hand(
    ratio: float, advantage: float, clip_low: float, clip_high: float, weight: float, clipped: bool
) -> None:
    log_probs = torch.tensor([[-3.0]], requires_grad=True)
    old = torch.tensor([[-3.0 - math.log(ratio)]])
    tokens = CISPOPolicyLoss(clip_low, clip_high)(
        tokens_of(log_probs, old, torch.tensor([advantage]), torch.tensor([[True]]))
    )
    # -weight * A * log pi with log pi = -3. The weight passes no gradient, so the derivative is -weight * A.
    assert tokens.losses.item() == pytest.approx(3 * weight * advantage, abs=1e-5)
    assert torch.autograd.grad(tokens.losses.sum(), log_probs)[0].item() == pytest.approx(-weight * advantage, abs=1e-6)
    assert tokens.clipped.item() == clipped


def test_each_solution_has_its_own_advantage_and_each_token_its_own_weight() -> None:
    log_probs = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    old = torch.tensor([[0.5, 0.25], [0.8, 0.25]]).log()  # ratios 1, 2 and 0.625, 2
    mask = torch.tensor([[True, True], [True, False]])
    tokens = CISPOPolicyLoss()(tokens_of(log_probs, old, torch.tensor([1.0, -1.0]), mask))
    # -1 * log 0.5 = 0.693147; -1.2 * log 0.5 = 0.831777; 0.625 * log 0.5 = -0.433217
    torch.testing.assert_close(tokens.losses[mask], torch.tensor([0.693147, 0.831777, -0.433217]), rtol=0, atol=1e-6)
    assert tokens.clipped.tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e4])
def test_padding_never_reaches_the_gradient(garbage: float) -> None:
    log_probs = torch.tensor([[-1.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    tokens = CISPOPolicyLoss()(tokens_of(log_probs, torch.tensor([[-1.0, garbage]]), torch.tensor([2.0]), mask))
    (gradient,) = torch.autograd.grad(tokens.losses.where(mask, 0.0).sum(), log_probs)
    assert gradient.tolist() == [[-2.0, 0.0]]


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.2), (1.1, 0.2), (0.2, -0.1), (math.nan, 0.2), (0.2, math.nan)])
def test_bounds_out_of_range_are_refused(low: float, high: float) -> None:
    with pytest.raises(UserError, match="clip_low"):
        CISPOPolicyLoss(low, high)
