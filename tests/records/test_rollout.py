"""Rollouts that are put together, and parts of them."""

from collections.abc import Callable

import pytest
import torch

from laser_lightning.data.problem import Problem
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout, concat_rollouts
from laser_lightning.verifiers import Verification


def made(rollouts: Rollouts, name: str, exact: bool = False) -> Rollout:
    """A round of 2 problems with 2 solutions each; the first group has rewards of both kinds."""
    rollouts.sampling_log_probs = -torch.rand(rollouts.sampling_log_probs.shape)
    solutions = [f"{name}{number}" for number in range(4)]
    return Rollout(
        [Problem(name, number, f"{name}{number}", "", [5], "4") for number in range(2)],
        rollouts,
        solutions,
        [Verification(1.0, solution, None) for solution in solutions],
        torch.tensor([1.0, 0.0, 0.3, 0.3]),
        torch.arange(4.0)[:, None] if exact else None,
        torch.arange(4.0) + 10,
        rollouts.sampling_log_probs - 1 if exact else None,
    )


def test_joined_rounds_hold_the_solutions_of_both(make_rollouts: Callable[..., Rollouts]) -> None:
    # The second one is narrower in both parts.
    first = made(make_rollouts(prompts=2, group_size=2, seed=0), "a", exact=True)
    second = made(make_rollouts(prompts=2, group_size=2, seed=1, limit=6, longest_prompt=4), "b", exact=True)
    both = concat_rollouts(first, second)
    assert [problem.problem for problem in both.problems] == ["a0", "a1", "b0", "b1"]
    assert both.texts == [verification.answer for verification in both.verifications]
    assert both.rollouts.responses() == first.rollouts.responses() + second.rollouts.responses()
    assert both.rollouts.group_size == 2
    assert both.has_signal.tolist() == [True, False, True, False]
    for rollout, start in ((first, 0), (second, 4)):
        for row in range(4):
            length = int(rollout.rollouts.response_lengths[row])
            for whole, part in (
                (both.rollouts.sampling_log_probs, rollout.rollouts.sampling_log_probs),
                (both.reference_log_probs, rollout.reference_log_probs),
            ):
                assert whole is not None
                assert part is not None
                assert torch.equal(whole[start + row, :length], part[row, :length])
    again = both.select(torch.tensor([2, 3]))
    assert again.texts == second.texts
    assert again.references is not None
    assert again.references.flatten().tolist() == [0.0, 1.0, 2.0, 3.0]


def test_several_scores_stay_with_their_solutions(make_rollouts: Callable[..., Rollouts]) -> None:
    first, second = made(make_rollouts(prompts=2, group_size=2), "a"), made(make_rollouts(prompts=2, group_size=2), "b")
    assert concat_rollouts(first, second).scores is None
    first.scores, second.scores = torch.arange(8.0).view(4, 2), torch.arange(8.0, 16.0).view(4, 2)
    chosen = concat_rollouts(first, second).select(torch.tensor([3, 0])).scores
    assert chosen is not None
    assert chosen.tolist() == [[12.0, 13.0], [14.0, 15.0], [0.0, 1.0], [2.0, 3.0]]


def test_the_policy_is_trained_on_the_weighted_sum_where_there_is_one(make_rollouts: Callable[..., Rollouts]) -> None:
    rollout = made(make_rollouts(prompts=2, group_size=2), "a")
    assert rollout.policy_rewards.tolist() == rollout.rewards.tolist()
    sums = (0.5, 0.5, None, 0.25)
    rollout.verifications = [Verification(1.0, None, policy_reward=value) for value in sums]
    assert rollout.policy_rewards.tolist() == [0.5, 0.5, rollout.rewards[2].item(), 0.25]
    # The outcomes of the first group differ, and those of the second do not; for the policy it is the other way.
    assert rollout.has_signal.tolist() == [False, True]


def test_a_part_of_a_round_keeps_each_solution_together(make_rollouts: Callable[..., Rollouts]) -> None:
    whole = made(make_rollouts(prompts=2, group_size=2), "a")
    part = whole.select(torch.tensor([1]))
    assert [problem.problem for problem in part.problems] == ["a1"]
    assert part.texts == ["a2", "a3"]
    assert part.self_rewards.tolist() == [12.0, 13.0]
    assert part.rollouts.responses() == whole.rollouts.responses()[2:]
    assert part.rollouts.prompt_lengths.tolist() == whole.rollouts.prompt_lengths[1:].tolist()
    assert part.rollouts.group_size == 2
    assert part.references is None
    assert part.reference_log_probs is None


def test_a_mask_chooses_the_problems_that_it_is_true_for(make_rollouts: Callable[..., Rollouts]) -> None:
    whole = made(make_rollouts(prompts=2, group_size=2), "a")
    mask, numbers = torch.tensor([False, True]), torch.tensor([1])
    assert whole.select(mask).texts == whole.select(numbers).texts == ["a2", "a3"]
    assert whole.select(mask).rollouts.responses() == whole.rollouts.responses()[2:]
    assert whole.rollouts.select(mask).responses() == whole.rollouts.responses()[2:]
    assert whole.rows_of(mask).tolist() == [2, 3]
    # a mask of solutions is none of problems
    for choose in (whole.select, whole.rows_of, whole.rollouts.select):
        with pytest.raises(ValueError, match=r"A mask of shape \(4,\) does not fit a list of 2"):
            choose(torch.ones(4, dtype=torch.bool))
