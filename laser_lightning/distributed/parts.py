"""The parts of a step (rollout, verification, update, ...): how long each takes, and which one a rank is in."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from laser_lightning.distributed.progress import Progress
from laser_lightning.distributed.training_strategy import OneDevice, TrainingStrategy


class StepParts:
    """Times the parts of a step, and lets errors of other ranks name the one that this rank is in.

    Attributes:
        strategy: is told which part is under way.
        seconds: time spent in each part since the last ``start``.
        progress: what is under way, for whoever shows it.
    """

    def __init__(self) -> None:
        self.strategy: TrainingStrategy = OneDevice(None)
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
        with self.strategy.part(name), self.progress.part(name):
            yield
        self.seconds[name] += time.perf_counter() - started
