"""What a step is filled with: the same groups, whatever the number of processes."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.modules.filling import fill_step, is_filled
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout, SampledStep
from laser_lightning.verifiers import Verification


class Meeting:
    """Where the ranks of a test, threads, hand each other what they have."""

    def __init__(self, count: int) -> None:
        self.count, self.barrier, self.held = count, threading.Barrier(count, timeout=60), [None] * count

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self.held[rank] = value
        self.barrier.wait()
        found = list(self.held)
        self.barrier.wait()
        return found


class ThreadRanks(Ranks):
    """One of several threads that train together."""

    def __init__(self, index: int, meeting: Meeting) -> None:
        super().__init__()
        self._index, self._meeting = index, meeting

    @property
    def count(self) -> int:
        return self._meeting.count

    @property
    def index(self) -> int:
        return self._index

    def sum(self, values: Tensor) -> Tensor:
        return self.stack(values).sum(dim=0)

    def stack(self, values: Tensor) -> Tensor:
        return torch.stack(self.gather(values))

    def gather(self, value: Any) -> list[Any]:
        return self._meeting.exchange(self._index, value)


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
    meeting = Meeting(ranks)

    def fill(rank: int) -> SampledStep:
        numbers = list(range(len(kept)))[rank::ranks]
        flags = torch.tensor([letter == "x" for letter in kept[rank::ranks]])
        return fill_step(a_round(numbers, make_rollouts), flags, count, ThreadRanks(rank, meeting))

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(fill, range(ranks)))


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
        meeting = Meeting(count)

        def full(rank: int, count: int = count, meeting: Meeting = meeting) -> bool:
            flags = torch.tensor([letter == "x" for letter in kept[rank::count]])
            return is_filled(flags, 4 // count, ThreadRanks(rank, meeting))

        with ThreadPoolExecutor(count) as pool:
            assert list(pool.map(full, range(count))) == [expected] * count
