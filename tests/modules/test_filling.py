"""What a step is filled with: the same groups, whatever the number of processes."""

from collections.abc import Callable

import pytest
import torch
from thread_ranks import ThreadRanks, on_ranks

from laser_lightning.data.problem import Problem
from laser_lightning.modules.filling import fill_step, is_filled
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout, SampledStep
from laser_lightning.verifiers import Verification


def a_round(numbers: list[int], make_rollouts: Callable[..., Rollouts]) -> Rollout:
    """Groups of two solutions, whose texts, rewards and tokens name the problem."""
    rows = [number for number in numbers for _ in range(2)]
    rollouts = make_rollouts(prompts=len(numbers), group_size=2)
    rollouts.response_ids[:] = torch.tensor(rows)[:, None]
    problems = [Problem("train", number, "p", "p", [1], "1") for number in numbers]
    texts = [str(row) for row in rows]
    rewards = torch.tensor(rows).float()
    return Rollout(problems, rollouts, texts, [Verification(0.0, None)] * len(rows), rewards, None, rewards / 2)


def filled(kept: str, count: int, ranks: int, make_rollouts: Callable[..., Rollouts]) -> list[SampledStep]:
    """The step on each rank; ``kept`` has a letter for each group in the order of the draw, x for one that is kept."""

    def fill(rank: ThreadRanks) -> SampledStep:
        numbers = list(range(len(kept)))[rank.index :: ranks]
        flags = torch.tensor([letter == "x" for letter in kept[rank.index :: ranks]])
        return fill_step(a_round(numbers, make_rollouts), flags, count, rank)

    return on_ranks(ranks, fill)


# Three rounds of four problems, "x" for a group with a signal; the first four of those, then the first of the others.
@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ("x.x.x.x.....", [0, 2, 4, 6]),  # all on rank 0 of two, which hands two of its four to rank 1
        (".x.x.x.x....", [1, 3, 5, 7]),
        ("xx........xx", [0, 1, 10, 11]),
        ("x...........", [0, 1, 2, 3]),
        (".......x..xx", [0, 7, 10, 11]),
        ("............", [0, 1, 2, 3]),
        ("xxxxxxxxxxxx", [0, 1, 2, 3]),
    ],
)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_step_is_filled_as_by_one_process(
    kept: str, expected: list[int], ranks: int, make_rollouts: Callable[..., Rollouts]
) -> None:
    steps = filled(kept, 4 // ranks, ranks, make_rollouts)
    assert sorted(number for step in steps for number in step.chosen.tolist()) == expected
    for step in steps:
        trained = step.trained
        assert len(trained.problems) == 4 // ranks
        assert [problem.index for problem in trained.problems] == step.chosen.tolist()
        rows = step.chosen.repeat_interleave(2)
        assert trained.texts == [str(row) for row in rows.tolist()]
        assert torch.equal(trained.rewards, rows.float())
        assert torch.equal(trained.self_rewards, rows / 2)
        assert torch.equal(trained.rollouts.response_ids, rows[:, None].expand_as(trained.rollouts.response_ids))
        assert len(step.sampled.problems) == 12 // ranks


def test_groups_stay_where_they_were_sampled_as_far_as_they_can(make_rollouts: Callable[..., Rollouts]) -> None:
    first, second = filled("x.x.xx......", 2, 2, make_rollouts)
    assert first.chosen.tolist() == [0, 2]
    assert second.chosen.tolist() == [5, 4]  # its own, and the third of the other rank


@pytest.mark.parametrize(
    ("kept", "expected"),
    [("x.x.x.x.", True), ("x.x.x...", False), ("xxxxx...", True), ("........", False)],
)
def test_the_processes_are_full_together(kept: str, expected: bool) -> None:
    """4 groups of all ranks are enough, whoever has them."""
    for count in (1, 2):

        def full(rank: ThreadRanks) -> bool:
            flags = torch.tensor([letter == "x" for letter in kept[rank.index :: rank.count]])
            return is_filled(flags, 4 // rank.count, rank)

        assert on_ranks(count, full) == [expected] * count
