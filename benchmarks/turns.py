"""Steps of several processes in turn."""

import time
from collections.abc import Mapping

from common import Worker

Steps = list[dict[str, float]]
"""What each step of a process took."""


def take_turns(
    workers: Mapping[str, Worker], least: int, seconds: float, most: int, warm_up: int = 1
) -> dict[str, Steps]:
    """Let processes take steps in turn, each second time in the other order, and end them.

    Args:
        workers: by name.
        least: steps of each, however long they take.
        seconds: further steps begin within this time.
        most: steps of each.
        warm_up: steps of each before the time begins to count.

    Returns:
        The steps by name, those of the warm-up in front.
    """
    steps: dict[str, Steps] = {name: [] for name in workers}
    try:
        for name, worker in workers.items():
            steps[name] += [worker.step() for _ in range(warm_up)]
        started = time.perf_counter()
        for turn in range(most):
            if turn >= least and time.perf_counter() - started >= seconds:
                break
            for name in sorted(workers, reverse=turn % 2 == 1):
                steps[name].append(workers[name].step())
    finally:
        for worker in workers.values():
            worker.close()
    return steps
