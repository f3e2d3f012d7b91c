"""Ranks that are threads of one process: what a test asks of several processes, without starting them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from laser_lightning.distributed.ranks import Ranks

T = TypeVar("T")


class Meeting:
    """Where ranks hand each other what they have."""

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

    def max(self, number: int) -> int:
        return max(self.gather(number))

    def stack(self, values: Tensor) -> Tensor:
        assert values.dtype != torch.bool  # gloo refuses them
        return torch.stack(self.gather(values))

    def gather(self, value: Any) -> list[Any]:
        return self._meeting.exchange(self._index, value)


def on_ranks(count: int, work: Callable[[ThreadRanks], T]) -> list[T]:
    """What each rank returns; the error of one ends the others' waiting.

    Args:
        count: how many ranks.
        work: what each does.
    """
    meeting = Meeting(count)

    def one(index: int) -> T:
        try:
            return work(ThreadRanks(index, meeting))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))
