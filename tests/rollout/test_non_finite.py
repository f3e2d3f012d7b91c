"""A log-prob that is no number costs its token: in the engine's record, in the loss, and in what is counted."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from laser_lightning.distributed.parts import StepParts
from laser_lightning.errors import UserError
from laser_lightning.modules.training_log import Mismatch
from laser_lightning.objective.context import FixedLogProbs
from laser_lightning.policy.model import Policy, PolicyOutputs
from laser_lightning.records.batching import Rollouts, micro_batches
from laser_lightning.rollout import RolloutEngine, Sampling, TransformersEngine
from laser_lightning.rollout.non_finite import leave_out_non_finite, refuse_damaged
from laser_lightning.rollout.sampler import Sampler

NAN, INF = torch.nan, torch.inf


def two_solutions() -> Rollouts:
    """Responses of 3 and 2 tokens, of which the engine lost one log-prob each, and a score."""
    return Rollouts(
        prompt_ids=torch.tensor([[5, 4]]),
        prompt_lengths=torch.tensor([2]),
        response_ids=torch.tensor([[6, 7, 1], [8, 1, 0]]),
        response_lengths=torch.tensor([3, 2]),
        finished=torch.tensor([True, True]),
        sampling_log_probs=torch.tensor([[-1.0, NAN, -0.5], [-INF, -0.25, 0.0]]),
        reward_token_log_probs=torch.tensor([[NAN], [-2.0]]),
    )


def test_the_loss_mask_leaves_tokens_out() -> None:
    rollouts = two_solutions()
    masked = leave_out_non_finite(rollouts)
    assert masked.trained_mask.tolist() == [[True, False, True], [False, True, False]]
    assert masked.non_finite.tolist() == [2, 1]  # a token and the score; a token
    assert masked.finite_log_probs.tolist() == [[-1.0, 0.0, -0.5], [0.0, -0.25, 0.0]]
    # What was masked before stays so.
    tool = replace(rollouts, loss_mask=torch.tensor([[True, True, False], [True, True, True]]))
    assert leave_out_non_finite(tool).trained_mask.tolist() == [[True, False, False], [False, True, False]]
    finite = replace(rollouts, sampling_log_probs=torch.zeros(2, 3))
    assert leave_out_non_finite(finite) is finite


def test_a_truncated_solution_has_no_score_to_lose() -> None:
    rollouts = replace(two_solutions(), finished=torch.tensor([False, True]))
    assert rollouts.non_finite.tolist() == [1, 1]


def test_a_round_without_any_is_refused() -> None:
    rollouts = two_solutions()
    refuse_damaged(rollouts)
    refuse_damaged(replace(rollouts, response_lengths=torch.tensor([0, 0])))
    with pytest.raises(UserError, match="logits are not finite: its weights are damaged"):
        refuse_damaged(replace(rollouts, sampling_log_probs=torch.full((2, 3), NAN)))


def test_the_mismatch_is_that_of_the_other_tokens() -> None:
    rollouts = leave_out_non_finite(two_solutions())
    (batch,) = micro_batches(rollouts, torch.arange(2), 100, 0)
    outputs = PolicyOutputs(torch.full((2, 3), -1.0), torch.zeros(2, 3), torch.full((2, 1), -2.5))
    found = Mismatch.between(outputs, batch, rollouts)
    # Tokens at -1, -0.5 and -0.25 against -1; the second solution's score of -2 against -2.5.
    assert [float(value) for value in found.values()] == [0 + 0.5 + 0.75, 3, 0.5, 1]
    # The same of a policy that several updates start from.
    old = FixedLogProbs(old=torch.full((2, 3), -1.0), old_reward_tokens=torch.full((2, 1), -2.5))
    assert [float(value) for value in Mismatch.before_update(old, rollouts).values()] == [0 + 0.5 + 0.75, 3, 0.5, 1]


class OneOfThem(RolloutEngine):
    """An engine that loses log-probs, and says how far it is."""

    def generate(self, *args: Any) -> Rollouts:
        assert self.progress is not None
        self.progress(1, 2)
        return two_solutions()


def test_what_the_sampler_hands_on() -> None:
    parts, told = StepParts(), []
    parts.progress.listener = told.append
    head: Any = SimpleNamespace(score_token_ids=(3,))
    nobody: Any = None

    sampler = Sampler(nobody, nobody, OneOfThem(), nobody, head, None, lambda *models: nullcontext(), parts, 100)
    drawn = sampler.draw([[5, 4]], 2, Sampling(), torch.Generator())
    assert drawn.trained_mask.tolist() == [[True, False, True], [False, True, False]]
    assert told == ["rollout", "rollout 1/2", ""]  # what the bar shows
    assert sampler.engine.progress is None


def test_logits_that_break_in_the_middle_cost_a_token(
    make_policy: Callable[..., Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy(eos_bias=-60.0)
    calls, head = [], policy.head

    def breaking_head(hidden: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        logits = head(hidden)
        if len(calls) == 3:
            logits[1, 50] = NAN
        return logits

    monkeypatch.setattr(policy, "head", breaking_head)
    engine, generator = TransformersEngine(), torch.Generator().manual_seed(0)
    # The shorter prompt stands first in the batch, so that row 1 is solution 3; calls 1 to 3 give tokens 0 to 2.
    found = engine.generate(policy, [[21, 22], [23]], 2, Sampling(max_response_tokens=5), (3,), generator)
    assert (~found.sampling_log_probs.isfinite()).nonzero().tolist() == [[3, 2]]
    assert found.response_lengths.tolist() == [5] * 4
