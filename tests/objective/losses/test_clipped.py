"""The clipped loss in every case of ratio and sign."""

import math

import pytest
import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.losses import ClippedPolicyLoss, PolicyTokens

ONE_TOKEN = torch.tensor([[True]])


def tokens_of(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> PolicyTokens:
    """The record of a micro-batch whose solutions have one advantage each."""
    nothing = torch.zeros(mask.shape)
    return PolicyTokens(
        log_probs, old_log_probs, advantages[:, None].expand(mask.shape), mask, nothing.long(), entropy=nothing
    )


def loss_of(ratio: float, advantage: float, clip_low: float, clip_high: float) -> tuple[float, bool, float]:
    """Loss, clipped flag and derivative by the log-prob, of one token."""
    log_probs = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    tokens = ClippedPolicyLoss(clip_low, clip_high)(
        tokens_of(log_probs, torch.tensor([[-1.0]]), torch.tensor([advantage]), ONE_TOKEN)
    )
    (gradient,) = torch.autograd.grad(tokens.losses.sum(), log_probs)
    return tokens.losses.item(), bool(tokens.clipped.item()), gradient.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "clip_low", "clip_high", "loss", "clipped", "gradient"),
    [
        # better than average, and already likelier: -min(1.5 * 2, 1.2 * 2), no gradient
        (1.5, 2.0, 0.2, 0.2, -2.4, True, 0.0),
        # worse than average, and likelier: -min(1.5 * -2, 1.2 * -2), with gradient -A * ratio
        (1.5, -2.0, 0.2, 0.2, 3.0, False, 3.0),
        # better than average, and less likely: -min(0.5 * 2, 0.8 * 2)
        (0.5, 2.0, 0.2, 0.2, -1.0, False, -1.0),
        # worse than average, and already less likely: -min(0.5 * -2, 0.8 * -2), no gradient
        (0.5, -2.0, 0.2, 0.2, 1.6, True, 0.0),
        # within the bounds nothing is cut off
        (1.1, 2.0, 0.2, 0.2, -2.2, False, -2.2),
        (0.9, -2.0, 0.2, 0.2, 1.8, False, 1.8),
        # clip-higher: 1.25 is within 1 + 0.28, and 1.5 is cut to it
        (1.25, 2.0, 0.2, 0.28, -2.5, False, -2.5),
        (1.5, 2.0, 0.2, 0.28, -2.56, True, 0.0),
        # each bound is its own: a low one of 0.4 lets 0.65 pass, which 0.2 would cut to 0.8
        (0.65, -2.0, 0.4, 0.1, 1.3, False, 1.3),
        (0.5, -2.0, 0.4, 0.1, 1.2, True, 0.0),
        (1.2, 2.0, 0.4, 0.1, -2.2, True, 0.0),
        # no advantage, no loss and no gradient
        (1.5, 0.0, 0.2, 0.2, 0.0, False, 0.0),
    ],
)
def test_by_hand(
    ratio: float, advantage: float, clip_low: float, clip_high: float, loss: float, clipped: bool, gradient: float
) -> None:
    assert loss_of(ratio, advantage, clip_low, clip_high) == (
        pytest.approx(loss, abs=1e-6),
        clipped,
        pytest.approx(gradient, abs=1e-6),
    )


@pytest.mark.parametrize("clip", [0.0, 0.2])
@pytest.mark.parametrize("advantage", [1.5, -1.5])
def test_on_policy_the_gradient_is_that_of_reinforce(advantage: float, clip: float) -> None:
    # ratio 1, also where the bounds meet there: d(-ratio * A) / d log pi = -A
    assert loss_of(1.0, advantage, clip, clip) == (pytest.approx(-advantage), False, pytest.approx(-advantage))


def test_each_solution_has_its_own_advantage_and_places_outside_the_mask_are_never_clipped() -> None:
    log_probs = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log()
    old = torch.tensor([[0.5, 0.25], [0.25, 0.25]]).log()  # ratios 1, 2 and 2, 2
    mask = torch.tensor([[True, True], [True, False]])
    tokens = ClippedPolicyLoss()(tokens_of(log_probs, old, torch.tensor([1.0, -1.0]), mask))
    torch.testing.assert_close(tokens.losses[mask], torch.tensor([-1.0, -1.2, 2.0]))
    assert tokens.clipped.tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e4])
def test_padding_never_reaches_the_gradient(garbage: float) -> None:
    log_probs = torch.tensor([[-1.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    tokens = ClippedPolicyLoss()(tokens_of(log_probs, torch.tensor([[-1.0, garbage]]), torch.tensor([2.0]), mask))
    (gradient,) = torch.autograd.grad(tokens.losses.where(mask, 0.0).sum(), log_probs)
    assert gradient.tolist() == [[-2.0, 0.0]]


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.2), (1.0, 0.2), (0.2, -0.1), (math.nan, 0.2)])
def test_bounds_out_of_range_are_refused(low: float, high: float) -> None:
    with pytest.raises(UserError, match="clip_low"):
        ClippedPolicyLoss(low, high)
