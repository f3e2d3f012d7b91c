"""Figures of the self-reward's quality and of the training, as PNG files and for the loggers."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from matplotlib.image import imsave
from torch import Tensor

from laser_lightning.callbacks.base import RunCallback, file_name, fits, values_by_set
from laser_lightning.callbacks.curve_plots import vote_figure
from laser_lightning.callbacks.plots import render, self_reward_figure, training_figure
from laser_lightning.callbacks.publish import publish_figure
from laser_lightning.callbacks.results import EvaluationResult, evaluation_result, write_curves
from laser_lightning.data.module import data_module
from laser_lightning.errors import UserError

TRAINING_CURVES = (
    "train/reward",
    "train/self_reward/f1",
    "train/self_reward/auroc",
    "train/self_reward/auroc_within",
    "train/response_length_tokens",
)
Series = dict[str, list[tuple[int, float]]]


class SelfRewardFigures(RunCallback):
    """Draws how well the self-reward tells correct from incorrect solutions, and the training curves.

    Into ``<run>/figures`` go ``<set>_self_reward.png`` (distributions for correct and incorrect solutions, over all and
    within problems, ROC, reliability), ``<set>_votes.png`` (accuracy of majority, weighted vote and best of k against
    the number of solutions and against their tokens), the numbers of that one in ``votes.csv``, and, in ``fit``,
    ``training.png``. The latest replaces the one before;
    TensorBoard, W&B and MLflow keep them all.
    The curves are saved in checkpoints, so those of a resumed run are whole; an evaluation behind the checkpoint's
    last step is taken from the run's ``metrics.csv``.

    Args:
        every_validation: draw at each evaluation, and not only at the end of ``fit``.
        dpi: resolution of the images, dots per inch.
    """

    def __init__(self, every_validation: bool = True, dpi: int = 150) -> None:
        if dpi < 1:
            raise UserError(f"figures.dpi is {dpi}, and must be at least 1.")
        self.every_validation, self.dpi = every_validation, dpi
        self.training: Series = {}
        self.evaluations: dict[str, Series] = {}
        self.phases: dict[str, int] = {}
        self._latest: dict[str, tuple[int, Tensor, Tensor, Tensor]] = {}
        self._votes: EvaluationResult | None = None

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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up when phases begin, and what evaluations of a resumed run its checkpoint is too old to know."""
        phases = self.needs_laser_module(pl_module, "figures").phases
        self.phases = {"self-rewarding": phases.reasoning_steps} if phases.self_reward_steps else {}
        self.phases["integrated"] = phases.reasoning_steps + phases.self_reward_steps
        if self.checkpoint_step is not None and trainer.is_global_zero:
            sets = data_module(trainer, type(self).__name__).evaluation_problems
            earlier = logged_evaluations(self.run_directory, sets)
            add_missing(self.evaluations, earlier, self.checkpoint_step)

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
        module, step = self.needs_laser_module(pl_module, "figures"), self.step(trainer)
        sets, costs = {}, {}
        for name in data_module(trainer, type(self).__name__).evaluation_problems:
            metrics = module.evaluator.metrics_of(name)
            groups = sets[name] = metrics.sample_groups()
            costs[name] = {f"response/{key}": float(value) for key, value in metrics.responses.compute().items()}
            self._latest[name] = (step, groups.self_rewards.cpu(), groups.correct.cpu(), groups.problem.cpu())
        if trainer.is_global_zero:
            self._votes = evaluation_result(_stage(trainer), step, costs, sets, module.evaluator.votes)
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
        def draw() -> None:
            for name, (step, scores, correct, problem) in self._latest.items():
                figure = self_reward_figure(name, step, scores, correct, problem)
                self._publish(trainer, figure, f"{file_name(name)}_self_reward", step)
            self._draw_votes(trainer)

        self.write(trainer, "Figures in", self.directory, draw)

    def _draw_votes(self, trainer: Trainer) -> None:
        """Of sets with several solutions to a problem: one has no vote."""
        if self._votes is None:
            return
        for name, one in self._votes.sets.items():
            if any(len(points) > 1 for points in one.curves.values()):
                figure = vote_figure(name, self._votes.step, one.curves, one.tokens_per_solution)
                self._publish(trainer, figure, f"{file_name(name)}_votes", self._votes.step)
        write_curves(self.directory / "votes.csv", self._votes)

    def _draw_training(self, trainer: Trainer) -> None:
        def draw() -> None:
            figure = training_figure(trainer.global_step, self.training, self.evaluations, self.phases)
            self._publish(trainer, figure, "training", trainer.global_step)

        self.write(trainer, "Figures in", self.directory, draw)

    def _publish(self, trainer: Trainer, figure: Figure, name: str, step: int) -> None:
        figure.set_dpi(self.dpi)
        image = render(figure)
        self.directory.mkdir(parents=True, exist_ok=True)
        imsave(self.directory / f"{name}.png", image)
        publish_figure(trainer, f"figures/{name}", image, step)


def _stage(trainer: Trainer) -> str:
    return "test" if trainer.testing else "val"


def logged_evaluations(directory: Path, sets: Iterable[str]) -> dict[str, Series]:
    """The evaluations in a run's CSV files, those of earlier sessions that were set aside included, by set and metric.

    Args:
        directory: of the run.
        sets: names of the evaluation sets.
    """
    found: dict[str, dict[str, dict[int, float]]] = {}
    for path in sorted(directory.glob("metrics*.csv"), key=lambda path: path.stat().st_mtime):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name in sets:
                    prefix = f"val/{name}/"
                    for column, value in row.items():
                        if column.startswith(prefix) and value:
                            points = found.setdefault(name, {}).setdefault(column.removeprefix(prefix), {})
                            points[int(float(row["step"]))] = float(value)
    return {name: {key: sorted(points.items()) for key, points in one.items()} for name, one in found.items()}


def add_missing(known: dict[str, Series], logged: Mapping[str, Series], last: int) -> None:
    """Add points of steps that a curve lacks.

    Args:
        known: points by set and metric, to be completed.
        logged: those that were found elsewhere.
        last: points of later steps are left out: the run takes these steps anew.
    """
    for name, series in logged.items():
        own = known.setdefault(name, {})
        for key, points in series.items():
            merged = {step: value for step, value in points if step <= last} | dict(own.get(key, []))
            own[key] = sorted(merged.items())


def add_point(series: Series, name: str, step: int, value: float) -> None:
    """Add a point to a curve, in place of an earlier one of the same step (an evaluation that was repeated)."""
    points = series.setdefault(name, [])
    if points and points[-1][0] == step:
        points.pop()
    points.append((step, value))
