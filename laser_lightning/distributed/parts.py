"""The parts of a step (rollout, verification, update, ...): how long each takes, and which one a rank is in."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.strategies import Strategy

from laser_lightning.distributed.progress import Progress
from laser_lightning.distributed.watchdog import part


class StepParts:
    """Times the parts of a step, and lets errors of other ranks name the one that this rank is in.

    Attributes:
        strategy: of the trainer, whose watchdog is told; None without one.
        seconds: time spent in each part since the last ``start``.
        progress: what is under way, for whoever shows it.
    """

    def __init__(self) -> None:
        self.strategy: Strategy | None = None
        self.seconds: dict[str, float] = defaultdict(float)
        self.progress = Progress()

    def start(self) -> None:
        """Begin a step: no time was spent yet."""
        self.seconds.clear()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Enter a part.

        Args:
            name: such as ``rollout``.
        """
        started = time.perf_counter()
        with part(self.strategy, name), self.progress.part(name):
            yield
        self.seconds[name] += time.perf_counter() - started
