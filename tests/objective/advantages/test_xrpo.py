"""Correct solutions that are unlikely for their group gain, by hand."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning import AdvantageEstimator, EMABaseline, GroupRelative, StepContext, StepSolutions
from laser_lightning.errors import UserError
from laser_lightning.objective.advantages.xrpo import NoveltySharpening
from laser_lightning.records.rollout import Rollout
from laser_lightning.verifiers import Verification

REWARDS = torch.tensor([[1.0, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
# Of two tokens each; the third solution has one, and the second place holds anything.
LIKELIHOODS = torch.tensor([[-1.0, -2, -3, -2], [-1, -1, -1, -1], [-4, 0, 0, 0]])


class Distances(AdvantageEstimator):
    """Distances from the mean, for each token if asked for."""

    def __init__(self, tokens: int = 0) -> None:
        self.tokens = tokens

    def __call__(self, rewards: Tensor, rollout: Rollout, context: StepContext) -> Tensor:
        centred = rewards - rewards.mean(dim=1, keepdim=True)
        return centred.view(-1, 1).expand(-1, self.tokens) if self.tokens else centred


@pytest.fixture
def rollout(step_solutions: Callable[..., StepSolutions]) -> Rollout:
    """Three groups of four solutions."""
    made = step_solutions(REWARDS).rollout
    lengths = torch.full((12,), 2)
    lengths[2] = 1
    log_probs = LIKELIHOODS.view(-1, 1) + torch.tensor([[0.5, -0.5]])
    log_probs[2] = torch.tensor([-3.0, torch.nan])
    responses = torch.ones(12, 2, dtype=torch.long)
    sampled = replace(
        made.rollouts, response_ids=responses, response_lengths=lengths, sampling_log_probs=log_probs, loss_mask=None
    )
    return replace(made, rollouts=sampled)


def sharpened(rollout: Rollout, rewards: Tensor = REWARDS, **options: Any) -> Tensor:
    estimator = NoveltySharpening(**{"estimator": Distances(), **options})
    return estimator(rewards, rollout, StepContext())


def test_by_hand(rollout: Rollout) -> None:
    # The first group's mean is -2: only the third solution is less likely, 1 - exp(-1) = 0.632. Times 2.5 it is above
    # half its advantage of 1/4, times 0.1 below. In the second all are as likely, and the third has no advantages.
    expected = torch.tensor([[0.25, 0.25, 0.375, -0.75], [-0.75, 0.25, 0.25, 0.25], [0.0] * 4])
    torch.testing.assert_close(sharpened(rollout), expected)
    expected[0, 2] = 0.25 + 0.1 * (1 - math.exp(-1))
    torch.testing.assert_close(sharpened(rollout, novelty=0.1), expected)


def test_a_solution_without_a_trained_token(rollout: Rollout) -> None:
    # The first group's -1 and -2 are left out: the mean of -3 and -2 is -2.5, and 0.5 less than it is the third. In the
    # second group nothing is known, and in the third all but the likely ones: mean 0, and nothing gained.
    mask = rollout.rollouts.response_mask
    mask[[0, 1, 4, 5, 6, 7, 8]] = False
    found = sharpened(replace(rollout, rollouts=replace(rollout.rollouts, loss_mask=mask)), novelty=0.1)
    expected = torch.tensor([[0.25, 0.25, 0.25 + 0.1 * (1 - math.exp(-0.5)), -0.75], [-0.75] + [0.25] * 3, [0.0] * 4])
    torch.testing.assert_close(found, expected)


def test_advantages_of_tokens(rollout: Rollout) -> None:
    found = sharpened(rollout, estimator=Distances(tokens=2))
    assert torch.equal(found, sharpened(rollout).view(-1, 1).expand(-1, 2))


def test_correct_is_what_the_verifier_says(rollout: Rollout) -> None:
    # Of self-rewards, whose advantages may be negative for a correct solution: nothing is taken away.
    scores = torch.tensor([[1.0, 0, 0.5, 1.0], [1.0, 0, 0.5, 1.0], [0.5] * 4])
    plain = scores - scores.mean(dim=1, keepdim=True)
    assert torch.equal(sharpened(rollout, scores), plain)
    higher = scores + torch.tensor([0.0, 0.0, 1.0, 0.0])
    expected = higher - higher.mean(dim=1, keepdim=True)
    expected[0, 2] *= 1.5
    torch.testing.assert_close(sharpened(rollout, higher), expected)


def test_other_parts(rollout: Rollout) -> None:
    assert isinstance(NoveltySharpening().estimator, GroupRelative)
    around = NoveltySharpening(estimator=EMABaseline(0.5))
    around.learn(
        replace(rollout, verifications=[Verification(r, None) for r in rollout.rewards.tolist()]), StepContext()
    )
    assert around.state_dict() == {"baselines": {"": 5 / 12}}
    with pytest.raises(UserError, match=r"advantage\.estimator\.novelty is 2\.5 and kappa is -1"):
        NoveltySharpening(kappa=-1)
