"""A process of the benchmarks: LaSeRModule under lightning.Trainer, one step whenever the parent says so."""

import lightning
from common import StepTimer, TimedModule, case_of_child, fit, wait_for_turn

from laser_lightning import LaSeRModule


class Told(lightning.Callback):
    """Waits for the parent before each step, on all ranks, and reports after it."""

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: LaSeRModule, batch: object, _: int) -> None:
        """Wait."""
        if trainer.is_global_zero:
            wait_for_turn()
        trainer.strategy.barrier()
        self.timer = StepTimer(pl_module.device)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: LaSeRModule, outputs: object, batch: object, _: int
    ) -> None:
        """Report; a step is over when it is on all ranks."""
        trainer.strategy.barrier()
        assert pl_module.last_rollout is not None
        lengths = pl_module.last_rollout.rollouts.response_lengths
        if trainer.is_global_zero:
            self.timer.report(tokens=int(lengths.sum()), solutions=len(lengths), **self.further(pl_module))

    def further(self, module: LaSeRModule) -> dict[str, float]:
        """What else of a step is reported."""
        assert isinstance(module, TimedModule)
        return {"rollout": module.rollout_seconds, "update": module.update_seconds}


if __name__ == "__main__":
    fit(*case_of_child(), Told())
