"""Which solutions have a score that is a judgement."""

from collections.abc import Callable
from dataclasses import replace

import torch

from laser_lightning import StepSolutions
from laser_lightning.objective.self_reward.solutions import is_judged

NAN, INF = torch.nan, torch.inf


def test_which_solutions_are_judged(step_solutions: Callable[..., StepSolutions]) -> None:
    # Read, truncated, two that the engine could not read, and one that the model was not asked about.
    step = step_solutions(torch.zeros(5), torch.tensor([True, False, True, True, True]))
    step.rollout.rollouts.reward_token_log_probs = torch.tensor([[-2.0], [NAN], [NAN], [-INF], [-2.0]])
    step.rollout.self_rewards[4] = NAN
    assert is_judged(step.rollout).tolist() == [True, False, False, False, False]
    assert step.judged.flatten().tolist() == [True, False, False, False, False]
    without = replace(step, finished=torch.zeros_like(step.finished))
    assert not without.judged.any(), "a part may take some out"


def test_every_token_of_the_score_counts_and_its_reference(step_solutions: Callable[..., StepSolutions]) -> None:
    rollout = step_solutions(torch.zeros(3)).rollout
    rollout.rollouts.reward_token_log_probs = torch.tensor([[-1.0, -2.0], [-1.0, NAN], [-1.0, -2.0]])
    assert is_judged(rollout).tolist() == [True, False, True]
    assert is_judged(replace(rollout, references=torch.tensor([[-3.0], [-3.0], [NAN]]))).tolist() == [
        True,
        False,
        False,
    ]
