"""Checkpoints to resume from."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from laser_lightning.distributed.files import finish_together, write_on_first
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.distributed.strategies import TrainingStrategy
from laser_lightning.errors import UserError
from laser_lightning.runs.background import BackgroundFiles
from laser_lightning.runs.checkpoints import WholeFiles, checkpoint_directory


class RunCheckpoint(ModelCheckpoint):
    """Saves a checkpoint every n optimizer steps, and one behind the last step, whatever the length of the run.

    Lightning's own ``ModelCheckpoint`` saves where the number of steps is a multiple of n, which a run may step over
    (rounds of several optimizer steps, skipped steps), and nothing at the end of a run that has saved before. This one
    saves behind the round in which a multiple was reached or passed. The latest checkpoint is kept
    (``<run>/checkpoints/step=150.ckpt``) with a link to it, ``last.ckpt``; a checkpoint of the same step is replaced.

    Args:
        every_n_train_steps: optimizer steps between checkpoints: what a crash may cost.
        filename: name of a checkpoint, in which {step} and metrics are replaced.
        save_last: what ``last.ckpt`` is: a ``link`` to the latest checkpoint, or (true) a copy of its own; null for a
            link, or with ``monitor``, where the latest is not always kept, for a copy.
        enable_version_counter: keep an older checkpoint of the same name, and count the names up.
        asynchronous: let the training go on while a checkpoint is written. Its content is laid down before, in as many
            bytes of host memory, and is the same; the former checkpoint is removed behind it. Not under DeepSpeed.
        model_checkpoint: arguments of Lightning's ``ModelCheckpoint``.
    """

    def __init__(
        self,
        every_n_train_steps: int = 50,
        filename: str = "{step}",
        save_last: bool | Literal["link"] | None = None,
        enable_version_counter: bool = False,
        asynchronous: bool = False,
        **model_checkpoint: Any,
    ) -> None:
        if every_n_train_steps < 1:
            raise UserError(f"checkpoint.every_n_train_steps is {every_n_train_steps}, and must be at least 1.")
        keeps_latest = model_checkpoint.get("monitor") is None and model_checkpoint.get("save_top_k", 1) != 0
        super().__init__(
            filename=filename,
            save_last=("link" if keeps_latest else True) if save_last is None else save_last,
            every_n_train_steps=every_n_train_steps,
            enable_version_counter=enable_version_counter,
            **model_checkpoint,
        )
        self._every, self.asynchronous = every_n_train_steps, asynchronous
        self._steps_before = 0

    @property
    def state_key(self) -> str:
        """Names the callback in checkpoints; another interval does not make it another one."""
        return self._generate_state_key(monitor=self.monitor)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let files be written in the background, if it is asked for."""
        super().setup(trainer, pl_module, stage)
        if self.asynchronous and stage == "fit":
            write_in_background(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note where the run begins; a step that it resumes from is saved already."""
        super().on_train_start(trainer, pl_module)
        self._steps_before = self._last_global_step_saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if the steps of this round reached a multiple of ``every_n_train_steps``."""
        if trainer.global_step // self._every > self._steps_before // self._every:
            self._save(trainer)
        self._steps_before = trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step, and wait until it is on the disk."""
        self._save(trainer, last_chance=True)
        finish_together(trainer.strategy, checkpoint_directory(trainer))

    def _save(self, trainer: Trainer, last_chance: bool = False) -> None:
        if self._should_skip_saving_checkpoint(trainer):
            return
        metrics = self._monitor_candidates(trainer)
        measured = self.monitor is None or self.monitor in metrics
        if measured:
            self._save_topk_checkpoint(trainer, metrics)
        if measured or last_chance:
            self._save_last_checkpoint(trainer, metrics)
        self._defer_save_until_validation = not measured

    @staticmethod
    def _link_checkpoint(trainer: Trainer, filepath: str, linkpath: str) -> None:
        files = trainer.strategy.checkpoint_io
        link = partial(_renew_link, Path(filepath), Path(linkpath))
        if not isinstance(files, BackgroundFiles):
            write_on_first(Ranks(trainer.strategy), "The link", Path(linkpath), link)
        elif trainer.is_global_zero:  # which has the thread; the file that the link leads to may still be written
            files.follow(link)


def _renew_link(file: Path, link: Path) -> None:
    """Let a link lead to a file beside it, at once; on a file system without links it is a copy."""
    if file.absolute() == link.absolute():
        return
    waiting = link.with_name(f".{link.name}.new")
    waiting.unlink(missing_ok=True)
    try:
        waiting.symlink_to(os.path.relpath(file, link.parent))
    except OSError:
        if file.is_dir():
            raise
        shutil.copyfile(file, waiting)
    if link.is_dir() and not link.is_symlink():  # a checkpoint of DeepSpeed, in a run that goes on without it
        shutil.rmtree(link)
    waiting.replace(link)


def write_in_background(trainer: Trainer) -> None:
    """Let a trainer's checkpoint files be written in the background.

    Raises:
        UserError: if they are not written by this package.
    """
    strategy = trainer.strategy
    if isinstance(strategy, TrainingStrategy) and strategy.writes_checkpoints:
        raise UserError(
            "checkpoint.asynchronous: under DeepSpeed each process writes its own shards, and goes on when all are "
            "complete: leave it out, or overlay strategy/ddp."
        )
    if isinstance(strategy.checkpoint_io, BackgroundFiles):
        return
    if type(strategy.checkpoint_io) not in (WholeFiles, TorchCheckpointIO):
        raise UserError(
            f"checkpoint.asynchronous: trainer.plugins has a {type(strategy.checkpoint_io).__name__}, which writes the "
            "checkpoints: leave one of them out."
        )
    strategy.checkpoint_io = BackgroundFiles()
