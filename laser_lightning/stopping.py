"""A run that is told to stop (SIGTERM, or SLURM's warning) saves and leaves; a resumed one finishes what is left."""

import os
import signal
import subprocess
from copy import deepcopy
from types import FrameType
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loops import _FitLoop
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from laser_lightning.checkpoints import checkpoint_directory

STOPPED = "last-stopped.ckpt"
"""Name of the checkpoint that a stopped run leaves beside the regular ones."""


class Stopped(SystemExit):
    """The run has saved and ends, with the exit status that shells give to a process ended by the signal."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(128 + number)
        self.sentence = (
            f"stopped by {signal.Signals(number).name} behind step {step}, with a checkpoint; the same command with "
            "--ckpt_path last (and this --run_dir) goes on from there"
        )


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


class StopOnSignal(Checkpoint):
    """Saves behind the step (or the batch of an evaluation) in which SIGTERM or SIGUSR1 arrives, on whichever process,
    and stops the run.

    Lightning alone would end at the signal without a checkpoint, or (SLURM) save in the middle of a step, and with
    many processes its handlers start a collective operation wherever the process happens to be. Here a handler takes
    a note, and the processes agree behind each step and each batch of an evaluation. A job of SLURM that gets its
    warning signal (``#SBATCH --signal=USR1@300``) is queued again.

    It is a ``Checkpoint``, so that the trainer calls it behind all callbacks whose state it saves.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._stops: Stopped | None = None
        self._requeues = False
        self._behind_step: dict[str, Any] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals from Lightning, which gives them back behind the run."""
        for number in (signal.SIGTERM, self._warning_signal(trainer)):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def _warning_signal(self, trainer: Trainer) -> int:
        environment = getattr(trainer.strategy, "cluster_environment", None)
        given = environment.requeue_signal if isinstance(environment, SLURMEnvironment) else None
        return signal.SIGUSR1 if given is None else given

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save, if any process has been told to stop."""
        self._behind_step = deepcopy(trainer.fit_loop.state_dict())
        self._save_if_told(trainer)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save and leave in the middle of an evaluation, which a resumed run does from its beginning."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_if_told(trainer)
            self._leave(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the loops as they were behind the step: Lightning resumes wrongly from the middle of an evaluation."""
        if self._stops is not None and self._behind_step is not None:
            checkpoint["loops"]["fit_loop"] = self._behind_step

    def _save_if_told(self, trainer: Trainer) -> None:
        received, agree = self._received, trainer.strategy.reduce_boolean_decision
        if self._stops is not None or not agree(received is not None, all=False):
            return
        warned = agree(received == self._warning_signal(trainer), all=False)
        number = self._warning_signal(trainer) if warned else signal.SIGTERM
        self._stops, self._requeues = Stopped(number, trainer.global_step), warned
        path = checkpoint_directory(trainer) / STOPPED
        rank_zero_info(f"{signal.Signals(number).name}: saving {path}, to stop.")
        trainer.save_checkpoint(path)

    # What is left of the step now is its metrics, which Lightning writes before any of the next two.
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave, rather than begin an evaluation."""
        self._leave(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Leave, rather than begin a step."""
        self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        if self._stops is None:
            return
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if environment is None and SLURMEnvironment.detect():
            environment = SLURMEnvironment()  # one process has none of its own
        if self._requeues and isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            trainer.strategy.barrier("laser_lightning.stop")
            if trainer.is_global_zero:
                requeue()
        raise self._stops


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
