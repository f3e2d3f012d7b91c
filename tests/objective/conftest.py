"""Steps whose scores were read, for the tests of what learns from them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning import StepSolutions


@pytest.fixture(scope="session")
def step_solutions(step_solutions: Callable[..., StepSolutions]) -> Callable[..., StepSolutions]:
    """``step_solutions(..., unread=None)``: as elsewhere, with a log-prob behind each ``<eos>``.

    ``unread`` is a mask [P, G] or [N] of finished solutions that have none, whose score is not known.
    """

    def make(*given: Any, unread: Tensor | None = None, **options: Any) -> StepSolutions:
        step = step_solutions(*given, **options)
        rollouts = step.rollout.rollouts
        missing = ~rollouts.finished if unread is None else ~rollouts.finished | unread.flatten()
        rollouts.reward_token_log_probs = torch.zeros(len(rollouts), 1).masked_fill(missing[:, None], torch.nan)
        return step

    return make
