"""The penalty of length by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.shaping.overlong import OverlongPenalty


def shaped(rewards: Tensor, lengths: Tensor, limit: int, penalty: OverlongPenalty) -> Tensor:
    rollout = SimpleNamespace(rollouts=SimpleNamespace(response_lengths=lengths))
    return penalty(rewards, rollout, StepContext(max_response_tokens=limit))  # type: ignore[arg-type]


def test_by_hand() -> None:
    # A limit of 40 and a buffer of a fifth of it, 8 tokens: nothing up to 32, then 1/8 of the penalty for each token.
    lengths = torch.tensor([1, 32, 33, 36, 40])
    rewards = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    actual = shaped(rewards, lengths, 40, OverlongPenalty(buffer_share=0.2, penalty=0.5))
    # 1 - 0.5 / 8, 1 - 0.5 * 4 / 8, 0 - 0.5
    torch.testing.assert_close(actual, torch.tensor([1.0, 0.0, 0.9375, 0.75, -0.5]))
    assert rewards.tolist() == [1.0, 0.0, 1.0, 1.0, 0.0]


def test_the_papers_numbers() -> None:
    # 20,480 tokens, the last 4,096 of which cost up to 1: at 18,432 half of it.
    actual = shaped(torch.ones(3), torch.tensor([16_384, 18_432, 20_480]), 20_480, OverlongPenalty(penalty=1.0))
    assert actual.tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("share", "penalty"), [(0.0, 0.5), (1.1, 0.5), (math.nan, 0.5), (0.2, 0.0), (0.2, -1.0), (0.2, math.nan)]
)
def test_settings_out_of_range_are_refused(share: float, penalty: float) -> None:
    with pytest.raises(UserError, match=r"advantage\.shaping"):
        OverlongPenalty(share, penalty)
