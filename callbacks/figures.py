"""Figures of the self-reward's quality and of the training, as PNG files and in TensorBoard."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from matplotlib.image import imsave
from torch import Tensor

from laser_lightning.callbacks.base import RunCallback, file_name, fits, values_by_set
from laser_lightning.callbacks.plots import render, self_reward_figure, training_figure
from laser_lightning.errors import UserError

TRAINING_CURVES = (
    "train/reward",
    "train/self_reward/f1",
    "train/self_reward/auroc",
    "train/response_length_tokens",
)
Series = dict[str, list[tuple[int, float]]]


class SelfRewardFigures(RunCallback):
    """Draws how well the self-reward tells correct from incorrect solutions, and the training curves.

    Into ``<run>/figures`` go ``<set>_self_reward.png`` (distribution for correct and incorrect solutions, ROC,
    reliability) and, in ``fit``, ``training.png``. The latest replaces the one before; TensorBoard keeps them all.
    The curves are saved in checkpoints, so those of a resumed run are whole.

    Args:
        every_validation: draw at each evaluation, and not only at the end of ``fit``.
        dpi: resolution of the images, dots per inch.
    """

    def __init__(self, every_validation: bool = True, dpi: int = 110) -> None:
        if dpi < 1:
            raise UserError(f"figures.dpi is {dpi}, and must be at least 1.")
        self.every_validation, self.dpi = every_validation, dpi
        self.training: Series = {}
        self.evaluations: dict[str, Series] = {}
        self._latest: dict[str, tuple[int, Tensor, Tensor]] = {}

    @property
    def directory(self) -> Path:
        """Where the images are."""
        return self.run_directory / "figures"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without self-rewards."""
        super().setup(trainer, pl_module, stage)
        self.needs_laser_module(pl_module, "figures")
        self._latest = {}

    def state_dict(self) -> dict[str, Any]:
        """The curves so far."""
        return {"training": self.training, "evaluations": self.evaluations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the curves."""
        self.training, self.evaluations = state_dict["training"], state_dict["evaluations"]

    # ---------------------------------------------------------------- training

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the step: the metrics are of the weights as they are now."""
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add a point to the training curves."""
        metrics = trainer.callback_metrics
        for name in TRAINING_CURVES:
            if name in metrics:
                add_point(self.training, name, self._first_step, float(metrics[name]))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what the end of training left to draw; its last evaluation is over by now."""
        if not self.every_validation:
            self._draw_self_rewards(trainer)
        self._draw_training(trainer)

    # -------------------------------------------------------------- evaluation

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the scores, which the module forgets right after this hook, and draw them."""
        if trainer.sanity_checking:
            return
        module = self.needs_laser_module(pl_module, "figures")
        for name in trainer.datamodule.evaluation_problems:  # type: ignore[attr-defined]
            scores, correct = module.metrics_of(name).self_verification.curves()
            self._latest[name] = (self.step(trainer), scores.cpu(), correct.cpu())
        if self.every_validation or not fits(trainer):
            self._draw_self_rewards(trainer)

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add a point to the evaluation curves, and draw all curves."""
        if trainer.sanity_checking or not fits(trainer):
            return
        for name, values in values_by_set(trainer, "val").items():
            series = self.evaluations.setdefault(name, {})
            for key, value in values.items():
                add_point(series, key, trainer.global_step, value)
        if self.every_validation:
            self._draw_training(trainer)

    # ------------------------------------------------------------------ output

    def _draw_self_rewards(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            for name, (step, scores, correct) in self._latest.items():
                figure = self_reward_figure(name, step, scores, correct)
                self._publish(trainer, figure, f"{file_name(name)}_self_reward", step)

    def _draw_training(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            figure = training_figure(trainer.global_step, self.training, self.evaluations)
            self._publish(trainer, figure, "training", trainer.global_step)

    def _publish(self, trainer: Trainer, figure: Figure, name: str, step: int) -> None:
        figure.set_dpi(self.dpi)
        image = render(figure)
        self.directory.mkdir(parents=True, exist_ok=True)
        imsave(self.directory / f"{name}.png", image)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"figures/{name}", torch.from_numpy(image), step, dataformats="HWC")


def add_point(series: Series, name: str, step: int, value: float) -> None:
    """Add a point to a curve, in place of an earlier one of the same step (an evaluation that was repeated)."""
    points = series.setdefault(name, [])
    if points and points[-1][0] == step:
        points.pop()
    points.append((step, value))
