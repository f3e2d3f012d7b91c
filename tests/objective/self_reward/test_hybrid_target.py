"""Targets between a solution's reward and its group's, by hand."""

from collections.abc import Callable

import pytest
import torch

from laser_lightning import HybridTarget, StepSolutions
from laser_lightning.errors import UserError


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        # The groups solve 1/4 and 3/4; the truncated solution counts as the wrong one that it is.
        (0.5, [[0.625, 0.125, 0.125, 0.125], [0.875, 0.875, 0.875, 0.375]]),
        (1.0, [[1.0, 0, 0, 0], [1, 1, 1, 0]]),
        (0.0, [[0.25] * 4, [0.75] * 4]),
    ],
)
def test_by_hand(gamma: float, expected: list[list[float]], step_solutions: Callable[..., StepSolutions]) -> None:
    finished = torch.tensor([[True, True, True, False], [True] * 4])
    step = step_solutions(torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]]), finished)
    assert HybridTarget(gamma).aim(step).tolist() == expected


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(gamma: float) -> None:
    with pytest.raises(UserError, match=r"self_reward\.target\.gamma is"):
        HybridTarget(gamma)
