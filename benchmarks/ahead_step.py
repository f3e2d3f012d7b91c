"""A process of `ahead.py`: blocks of steps, each whenever the parent says so."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import lightning
from common import Case, StepTimer, TimedModule, fit, wait_for_turn

from laser_lightning import EngineProcess
from laser_lightning.rollout import RolloutSettings


@dataclass(frozen=True)
class AheadCase(Case):
    """A setting of training steps, with rounds drawn ahead or not.

    Attributes:
        ahead: ``rollout.ahead``; 0 decodes in the trainer's process, above 0 in one beside it with one thread.
        block: steps that are timed together.
    """

    ahead: int = 0
    block: int = 1


class Told(lightning.Callback):
    """Waits for the parent before each block of steps, and reports behind it.

    Before the first block it warms up. A block is over when all is drawn that was begun in it, so that it draws as many
    rounds as it updates, and what is drawn while another process has its turn is nothing.
    """

    def __init__(self, block: int) -> None:
        self.block, self.taken = block, 0

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: TimedModule, batch: object, _: int) -> None:
        """Wait."""
        if self.taken % self.block == 0:
            pl_module.sampler.meanwhile.wait()
            wait_for_turn()
            self.timer = StepTimer(pl_module.device)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: TimedModule, outputs: object, batch: object, _: int
    ) -> None:
        """Report."""
        self.taken += 1
        if self.taken % self.block == 0:
            pl_module.sampler.meanwhile.wait()
            self.timer.report(update=pl_module.update_seconds)


if __name__ == "__main__":
    case = AheadCase(**json.loads(sys.argv[1]))
    options = {"engine": EngineProcess(threads=1), "rollout": RolloutSettings(case.ahead)} if case.ahead else {}
    fit(case, Path(sys.argv[2]), Told(case.block), **options)
