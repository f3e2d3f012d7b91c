"""A run that is told to stop (Ctrl-C, SIGTERM, SLURM's warning) saves and leaves; a resumed one does what is left."""

import os
import signal
import subprocess
from copy import deepcopy
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loops import _FitLoop
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from laser_lightning.distributed.files import finish_together
from laser_lightning.modules.training import TrainingModule
from laser_lightning.runs.checkpoints import checkpoint_directory
from laser_lightning.runs.interruption import BrokenOffError, Interruption, Stopped
from laser_lightning.runs.random_state import random_state, restore_random_state

STOPPED = "last-stopped.ckpt"
"""Name of the checkpoint that a stopped run leaves beside the regular ones."""


class FinishingFitLoop(_FitLoop):
    """Finishes a run whose steps are all taken but whose last evaluation and export are not: Lightning skips them."""

    @classmethod
    def take_over(cls, trainer: Trainer) -> None:
        """Put such a loop in the place of the trainer's own."""
        own = trainer.fit_loop
        trainer.fit_loop = cls(trainer, min_epochs=own.min_epochs, max_epochs=own.max_epochs)
        trainer.fit_loop.epoch_loop = own.epoch_loop

    @property
    def skip(self) -> bool:
        """Whether there is nothing to do."""
        resumes = self.trainer.ckpt_path is not None and self.trainer.limit_train_batches != 0
        return not resumes and super().skip

    def on_run_start(self) -> None:
        """Hear signals before the first callback does anything that takes long."""
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StopOnSignal):
                callback.listen(self.trainer)
        super().on_run_start()


class StopOnSignal(Checkpoint):
    """Saves and leaves when Ctrl-C, SIGTERM or SIGUSR1 arrives, on whichever process.

    Lightning alone would end at the signal without a checkpoint, or (SLURM) save in the middle of a step, and with
    many processes its handlers start a collective operation wherever the process happens to be. Here a step whose
    weights have not changed yet is broken off, wherever it is, and so is an evaluation (see ``Interruption``); a round
    of several optimizer steps goes on to its end behind the first of them. What is saved is the state behind the last
    whole round, its random states and its position in the data included: a resumed run does the broken step anew, as
    the run would have done it. A second Ctrl-C leaves at once.

    A job of SLURM that gets its warning signal (``#SBATCH --signal=USR1@300``) is queued again.

    It is a ``Checkpoint``, so that the trainer calls it behind all callbacks whose state it saves.
    """

    def __init__(self) -> None:
        self._interruption = Interruption()
        self._stops: Stopped | None = None
        self._loops: dict[str, Any] | None = None
        self._data: dict[str, Any] | None = None
        self._random: dict[str, Any] | None = None

    def listen(self, trainer: Trainer) -> None:
        """Take over the signals from Lightning, which gives them back behind the run."""
        module = trainer.lightning_module
        if isinstance(module, TrainingModule):
            self._interruption = module.interruption
        numbers = (signal.SIGINT, signal.SIGTERM, self._warning_signal(trainer))
        self._interruption.listen(
            numbers,
            trainer.strategy,
            lambda: (
                f"behind step {trainer.global_step}, with a checkpoint; the same command with --ckpt_path last (and "
                "this --run_dir) goes on from there"
            ),
        )

    def _warning_signal(self, trainer: Trainer) -> int:
        environment = getattr(trainer.strategy, "cluster_environment", None)
        given = environment.requeue_signal if isinstance(environment, SLURMEnvironment) else None
        return signal.SIGUSR1 if given is None else given

    # ------------------------------------------- the state behind the last whole round

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the loops as they were saved: Lightning changes them when it begins."""
        self._loops = deepcopy(checkpoint["loops"]["fit_loop"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hear signals, and keep the state before the first round."""
        self.listen(trainer)
        self._keep_position(trainer, self._loops)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Leave, rather than begin a round."""
        self._leave()
        self._interruption.release()
        self._keep_random(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save, if any process has been told to stop."""
        self._interruption.release()
        self._keep_position(trainer)
        self._save_if_told(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave, rather than begin an evaluation."""
        self._leave()
        self._keep_random(pl_module)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save and leave in the middle of an evaluation, which a resumed run does from its beginning."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_if_told(trainer)
            self._leave()

    def _keep_position(self, trainer: Trainer, loops: dict[str, Any] | None = None) -> None:
        self._loops = deepcopy(trainer.fit_loop.state_dict()) if loops is None else loops
        data = _data_of(trainer)
        self._data = None if data is None else deepcopy(data.state_dict())

    def _keep_random(self, module: LightningModule) -> None:
        if isinstance(module, TrainingModule) and hasattr(module, "generator"):
            self._random = random_state(module.generator)

    # ----------------------------------------------------------------------- the end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what a broken step or evaluation of ``fit`` began from."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if isinstance(exception, BrokenOffError):  # at the very border of a part
            stops = self._interruption.stopped()
            assert stops is not None
            self._save_behind_round(trainer, pl_module, stops)
            self._interruption.close(hears_on=True)
            raise stops
        if isinstance(exception, Stopped) and self._stops is None:
            self._save_behind_round(trainer, pl_module, exception)
        self._interruption.close(hears_on=isinstance(exception, Stopped))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._interruption.close()

    def _save_behind_round(self, trainer: Trainer, module: LightningModule, stops: Stopped) -> None:
        if self._random is not None:
            assert isinstance(module, TrainingModule)
            restore_random_state(self._random, module.generator)
            module.put_back_step()
        if self._data is not None and (data := _data_of(trainer)) is not None:
            data.load_state_dict(self._data)
        self._save(trainer, stops)
        self._requeue_if_warned(trainer, stops)

    def _save_if_told(self, trainer: Trainer) -> None:
        if self._stops is None and (stops := self._interruption.stopped()) is not None:
            self._save(trainer, stops)
            self._requeue_if_warned(trainer, stops)

    def _save(self, trainer: Trainer, stops: Stopped) -> None:
        self._stops = stops
        path = checkpoint_directory(trainer) / STOPPED
        rank_zero_info(f"{signal.Signals(stops.number).name}: saving {path}, to stop.")
        trainer.save_checkpoint(path)
        finish_together(trainer.strategy, path.parent)  # a job that is queued again may be ended at any moment

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the loops as they were behind the round: Lightning resumes wrongly from the middle of anything."""
        if self._stops is not None and self._loops is not None:
            checkpoint["loops"]["fit_loop"] = self._loops

    def _leave(self) -> None:
        if self._stops is not None:
            raise self._stops

    def _requeue_if_warned(self, trainer: Trainer, stops: Stopped) -> None:
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if environment is None and SLURMEnvironment.detect():
            environment = SLURMEnvironment()  # one process has none of its own
        warned = stops.number == self._warning_signal(trainer)
        if warned and isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            trainer.strategy.barrier("laser_lightning.stop")
            if trainer.is_global_zero:
                requeue()


class LeaveOnSignal(Callback):
    """Ends ``validate``, ``test`` and ``predict`` when Ctrl-C or SIGTERM arrives: there is nothing to save but the
    solutions, which are kept batch by batch (``evaluation.keep``)."""

    def __init__(self) -> None:
        self._interruption: Interruption | None = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals, in an evaluation that stands alone."""
        if trainer.state.fn != TrainerFn.FITTING and isinstance(pl_module, TrainingModule):
            self._interruption = pl_module.interruption
            where = "in the evaluation; the same command (and this --run_dir) goes on with the batch that it was in"
            self._interruption.listen((signal.SIGINT, signal.SIGTERM), trainer.strategy, lambda: where)

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back, or only note further ones where the run is about to end."""
        if self._interruption is not None:
            self._interruption.close(hears_on=isinstance(exception, Stopped))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        if self._interruption is not None:
            self._interruption.close()


def _data_of(trainer: Trainer) -> LightningDataModule | None:
    """Whatever data module it has: Lightning sets the attribute, and declares none."""
    return getattr(trainer, "datamodule", None)


def requeue() -> None:
    """Put this job of SLURM back into its queue."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        rank_zero_warn(f"The job {job} could not be queued again ({error}): submit it again.")
    else:
        rank_zero_info(f"The job {job} is queued again.")
