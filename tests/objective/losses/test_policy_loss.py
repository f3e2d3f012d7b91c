"""How token losses become the loss of an optimizer step."""

import math

import pytest
import torch

from laser_lightning.losses import Aggregation, solution_weights, weighted_sum

LENGTHS = torch.tensor([1, 3, 4])
MASK = torch.arange(4) < LENGTHS[:, None]
# Losses 1; 2, 3, 4; 5, 6, 7, 8, and nonsense behind them.
VALUES = torch.tensor([[1.0, 99, 99, 99], [2, 3, 4, 99], [5, 6, 7, 8]])


@pytest.mark.parametrize(
    ("aggregation", "weights", "mean"),
    [
        # all 8 tokens alike: (1 + 9 + 26) / 8
        ("token_mean", [1 / 8, 1 / 8, 1 / 8], 36 / 8),
        # the means 1, 3 and 6.5, averaged over 3 solutions
        ("sequence_mean", [1 / 3, 1 / 9, 1 / 12], 10.5 / 3),
        # Dr.GRPO: the sums 1, 9 and 26 over a limit of 10, averaged over 3 solutions: (0.1 + 0.9 + 2.6) / 3
        ("fixed_length", [1 / 30, 1 / 30, 1 / 30], 3.6 / 3),
    ],
)
def test_weights_by_hand(aggregation: Aggregation, weights: list[float], mean: float) -> None:
    actual = solution_weights(LENGTHS, aggregation, torch.tensor(8), torch.tensor(3), 10)
    torch.testing.assert_close(actual, torch.tensor(weights))
    torch.testing.assert_close(weighted_sum(VALUES, MASK, actual), torch.tensor(mean))


@pytest.mark.parametrize(
    ("aggregation", "weights"),
    [
        ("token_mean", [1 / 20, 1 / 20, 1 / 20]),
        ("sequence_mean", [1 / 7, 1 / 21, 1 / 28]),
        ("fixed_length", [1 / 70, 1 / 70, 1 / 70]),
    ],
)
def test_totals_are_those_of_all_ranks(aggregation: Aggregation, weights: list[float]) -> None:
    # This rank has 8 of the step's 20 tokens and 3 of its 7 solutions.
    actual = solution_weights(LENGTHS, aggregation, torch.tensor(20), torch.tensor(7), 10)
    torch.testing.assert_close(actual, torch.tensor(weights))
    assert actual.dtype == torch.float32


@pytest.mark.parametrize("garbage", [math.nan, math.inf])
def test_a_weighted_sum_ignores_what_lies_outside_the_mask(garbage: float) -> None:
    values = torch.tensor([[1.0, garbage], [2.0, 3.0]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, True]])
    total = weighted_sum(values, mask, torch.tensor([10.0, 100.0]))
    assert total.item() == 510.0  # 10 * 1 + 100 * (2 + 3)
    assert torch.autograd.grad(total, values)[0].tolist() == [[10.0, 0.0], [100.0, 100.0]]
