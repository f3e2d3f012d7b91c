"""Checkpoints to resume from."""

from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from laser_lightning.errors import UserError


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
        model_checkpoint: arguments of Lightning's ``ModelCheckpoint``.
    """

    def __init__(
        self,
        every_n_train_steps: int = 50,
        filename: str = "{step}",
        save_last: bool | Literal["link"] | None = None,
        enable_version_counter: bool = False,
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
        self._every = every_n_train_steps
        self._steps_before = 0

    @property
    def state_key(self) -> str:
        """Names the callback in checkpoints; another interval does not make it another one."""
        return self._generate_state_key(monitor=self.monitor)

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
        """Save the last step."""
        self._save(trainer, last_chance=True)

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
