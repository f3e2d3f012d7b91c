"""A process of the benchmarks: LaSeRModule under lightning.Trainer, one step whenever the parent says so."""

import lightning
from common import StepTimer, TimedModule, case_of_child, fit, wait_for_turn


class Told(lightning.Callback):
    """Waits for the parent before each step, on all ranks, and reports after it."""

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: TimedModule, batch: object, _: int) -> None:
        """Wait."""
        if trainer.is_global_zero:
            wait_for_turn()
        trainer.strategy.barrier()
        self.timer = StepTimer(pl_module.device)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: TimedModule, outputs: object, batch: object, _: int
    ) -> None:
        """Report; a step is over when it is on all ranks."""
        trainer.strategy.barrier()
        assert pl_module.last_rollout is not None
        lengths = pl_module.last_rollout.rollouts.response_lengths
        if trainer.is_global_zero:
            self.timer.report(
                tokens=int(lengths.sum()),
                solutions=len(lengths),
                rollout=pl_module.rollout_seconds,
                update=pl_module.update_seconds,
            )


if __name__ == "__main__":
    fit(*case_of_child(), Told())
