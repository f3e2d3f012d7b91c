"""GSPO by hand: one ratio and one clip for each solution."""

import math

import pytest
import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.losses import GSPOPolicyLoss, PolicyTokens, solution_weights, weighted_sum

MASK = torch.tensor([[True, True, True], [True, True, False]])
# Token ratios 1.5, 0.5, 1.8 (product 1.35, 1.35^(1/3) = 1.105209) and 0.8, 0.45 (product 0.36, square root 0.6).
RATIOS = torch.tensor([[1.5, 0.5, 1.8], [0.8, 0.45, 1.0]])
S = (1.105209, 0.6)


def tokens_of(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> PolicyTokens:
    """The record of a micro-batch whose solutions have one advantage each."""
    nothing = torch.zeros(mask.shape)
    return PolicyTokens(
        log_probs, old_log_probs, advantages[:, None].expand(mask.shape), mask, nothing.long(), entropy=nothing
    )


def gradient_of(advantages: list[float], clip_low: float, clip_high: float) -> tuple[float, torch.Tensor]:
    """The loss of the two solutions, averaged as in the paper, and its gradient by the log-probs."""
    log_probs = RATIOS.log().sub(2.0).requires_grad_()
    tokens = GSPOPolicyLoss(clip_low, clip_high)(
        tokens_of(log_probs, torch.full((2, 3), -2.0), torch.tensor(advantages), MASK)
    )
    weights = solution_weights(MASK.sum(1), "sequence_mean", torch.tensor(5), torch.tensor(2), 3)
    loss = weighted_sum(tokens.losses, MASK, weights)
    return loss.item(), torch.autograd.grad(loss, log_probs)[0]


def test_within_the_bounds_every_token_shares_the_solutions_gradient() -> None:
    loss, gradient = gradient_of([2.0, -1.0], clip_low=0.5, clip_high=0.5)
    # -(2 * 1.105209 - 0.6) / 2
    assert loss == pytest.approx(-(2 * S[0] - S[1]) / 2, abs=1e-6)
    # d s / d log pi_t = s / |y|: -2 * 1.105209 / 3 / 2 = -0.368403 for three tokens, 0.6 / 2 / 2 = 0.15 for two. The
    # ratios of 0.5 and 1.8, which a clip of tokens would cut, are in it.
    expected = torch.tensor([[-0.368403, -0.368403, -0.368403], [0.15, 0.15, 0.0]])
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("advantages", "loss", "first", "second"),
    [
        # s = 1.105209 is cut to 1.1 where it is good, and s = 0.6 to 0.8 where it is bad: no gradient
        ([1.0, -1.0], -(1.1 - 0.8) / 2, True, True),
        # the other way round the smaller value is the free one: -min(-1.105209, -1.1) and -min(0.6, 0.8)
        ([-1.0, 1.0], -(-S[0] + S[1]) / 2, False, False),
        ([1.0, 1.0], -(1.1 + S[1]) / 2, True, False),
    ],
)
def test_a_solution_is_clipped_as_a_whole(advantages: list[float], loss: float, first: bool, second: bool) -> None:
    actual, gradient = gradient_of(advantages, clip_low=0.2, clip_high=0.1)
    assert actual == pytest.approx(loss, abs=1e-6)
    assert (gradient[0] == 0).all() == first
    assert (gradient[1] == 0).all() == second
    tokens = GSPOPolicyLoss(0.2, 0.1)(tokens_of(RATIOS.log(), torch.zeros(2, 3), torch.tensor(advantages), MASK))
    assert tokens.clipped.tolist() == [[first] * 3, [second, second, False]]


def test_the_bounds_are_the_papers() -> None:
    # 1 + 4e-4 = 1.0004 and 1 - 3e-4 = 0.9997: mean log ratios of 3e-4 and -2e-4 pass, 5e-4 and -4e-4 do not.
    for mean, advantage, clipped in ((3e-4, 1.0, False), (5e-4, 1.0, True), (-2e-4, -1.0, False), (-4e-4, -1.0, True)):
        log_probs = torch.tensor([[0.1 + 2 * mean, -0.1]])
        tokens = GSPOPolicyLoss()(
            tokens_of(log_probs, torch.zeros(1, 2), torch.tensor([advantage]), torch.ones(1, 2).bool())
        )
        assert tokens.clipped.tolist() == [[clipped, clipped]]


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e4])
def test_padding_never_reaches_the_ratio_or_the_gradient(garbage: float) -> None:
    log_probs = torch.tensor([[-1.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    tokens = GSPOPolicyLoss()(tokens_of(log_probs, torch.tensor([[-1.0, garbage]]), torch.tensor([2.0]), mask))
    (gradient,) = torch.autograd.grad(tokens.losses.where(mask, 0.0).sum(), log_probs)
    assert gradient.tolist() == [[-2.0, 0.0]]


def test_bounds_out_of_range_are_refused() -> None:
    with pytest.raises(UserError, match="clip_low"):
        GSPOPolicyLoss(clip_low=1.0)
