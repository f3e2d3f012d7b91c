"""The table at the end of a run: where each evaluation set started and where it ended."""

import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from rich.table import Table
from rich.text import Text

from laser_lightning.callbacks.base import RunCallback, fits, show, values_by_set
from laser_lightning.callbacks.export import HuggingFaceExport
from laser_lightning.callbacks.figures import SelfRewardFigures
from laser_lightning.callbacks.names import number, row_order
from laser_lightning.callbacks.report import EvaluationReport
from laser_lightning.callbacks.solution_log import SolutionLog


class Evaluation(NamedTuple):
    """The values of one evaluation.

    Attributes:
        step: optimizer steps behind the weights.
        sets: value by set and metric.
    """

    step: int
    sets: dict[str, dict[str, float]]


class RunSummary(RunCallback):
    """Shows what a run changed: for each evaluation set its first and its last values, and the difference.

    At the end of ``fit`` the table is printed and written to ``<run>/summary.json``, with the time and the places of
    the run's files. The first values and the times are saved in checkpoints, so those of a resumed run are of the
    whole run. After ``validate`` and ``test`` the values are printed by set, unless an
    EvaluationReport does so.
    """

    def __init__(self) -> None:
        self.start: Evaluation | None = None
        self.end: Evaluation | None = None
        self.training_seconds = 0.0
        self.evaluation_seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """First and latest values, and the times."""
        return {
            "start": None if self.start is None else tuple(self.start),
            "end": None if self.end is None else tuple(self.end),
            "training_seconds": self.training_seconds,
            "evaluation_seconds": self.evaluation_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the summary of the run that is resumed."""
        start, end = state_dict["start"], state_dict["end"]
        self.start = None if start is None else Evaluation(*start)
        self.end = None if end is None else Evaluation(*end)
        self.training_seconds = state_dict["training_seconds"]
        self.evaluation_seconds = state_dict["evaluation_seconds"]

    # ------------------------------------------------------------------- times

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock of a training step."""
        self._batch_started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the time of a training step."""
        self.training_seconds += time.perf_counter() - self._batch_started

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an evaluation."""
        self._evaluation_started = time.perf_counter()

    # -------------------------------------------------------------- evaluation

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note an evaluation of ``fit``; show one that stands alone."""
        if trainer.sanity_checking:
            return
        evaluation = Evaluation(self.step(trainer), values_by_set(trainer, "val"))
        if fits(trainer):
            self.evaluation_seconds += time.perf_counter() - self._evaluation_started
            self.start, self.end = self.start or evaluation, evaluation
        else:
            self._show_values(trainer, evaluation)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the values of the test sets."""
        self._show_values(trainer, Evaluation(self.step(trainer), values_by_set(trainer, "test")))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the table and write it: the module's last evaluation comes before this hook."""
        path = self.run_directory / "summary.json"
        self.write(trainer, "The summary", path, lambda: self._write_summary(trainer, path))

    def _write_summary(self, trainer: Trainer, path: Path) -> None:
        places = {name: str(path) for name, path in output_places(trainer).items()} | tracked_runs(trainer)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self._summary(trainer, places), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        tables = [] if self.start is None or self.end is None else change_tables(self.start, self.end)
        lines = [
            f"{trainer.global_step} optimizer steps, {self.training_seconds:.0f} s of training, "
            f"{self.evaluation_seconds:.0f} s of evaluation.",
            *(f"{name}: {place}" for name, place in (places | {"summary": str(path)}).items()),
        ]
        show(*tables, *lines)

    def _show_values(self, trainer: Trainer, evaluation: Evaluation) -> None:
        reported = any(isinstance(callback, EvaluationReport) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if trainer.is_global_zero and not reported:
            show(*value_tables(evaluation))

    def _summary(self, trainer: Trainer, places: dict[str, str]) -> dict[str, Any]:
        return {
            "steps": trainer.global_step,
            "training_seconds": round(self.training_seconds, 3),
            "evaluation_seconds": round(self.evaluation_seconds, 3),
            "start": None if self.start is None else _plain(self.start),
            "end": None if self.end is None else _plain(self.end),
            "files": places,
        }


def output_places(trainer: Trainer) -> dict[str, Path]:
    """Where a run's results are, by what they are: those that exist."""
    places: dict[str, Path] = {}
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            places["metrics"] = Path(logger.log_dir) / "metrics.csv"
        elif isinstance(logger, TensorBoardLogger):
            places["TensorBoard"] = Path(logger.log_dir)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, SelfRewardFigures):
            places["figures"] = callback.directory
        elif isinstance(callback, SolutionLog):
            places["solutions"] = callback.directory
        elif isinstance(callback, HuggingFaceExport):
            places["exported models"] = callback.directory
        elif isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            places["checkpoints"] = Path(callback.dirpath)
    return {name: path for name, path in places.items() if path.exists()}


def tracked_runs(trainer: Trainer) -> dict[str, str]:
    """Where W&B and MLflow show a run, if it logs to them."""
    places: dict[str, str] = {}
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            places["W&B"] = logger.experiment.url or str(Path(logger.experiment.dir).parent)  # no address when offline
        elif isinstance(logger, MLFlowLogger):
            places["MLflow"] = f"run {logger.run_id} in {logger._tracking_uri}"
    return places


def change_tables(start: Evaluation, end: Evaluation) -> list[Table]:
    """For each set a table of its first and last values and their difference.

    Args:
        start: the first evaluation.
        end: the last one; of the same step where there was only one.
    """
    tables = []
    for name, values in end.sets.items():
        table = _table(f"{name}, from step {start.step} to step {end.step}", "start", "end", "change")
        for metric in row_order(values):
            before = start.sets.get(name, {}).get(metric, math.nan)
            after = values[metric]
            table.add_row(
                Text(metric),
                number(metric, before),
                number(metric, after),
                number(metric, after - before, sign=True),
            )
        tables.append(table)
    return tables


def value_tables(evaluation: Evaluation) -> list[Table]:
    """For each set a table of its values."""
    tables = []
    for name, values in evaluation.sets.items():
        table = _table(f"{name} at step {evaluation.step}", "value")
        for metric in row_order(values):
            table.add_row(Text(metric), number(metric, values[metric]))
        tables.append(table)
    return tables


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title, style="bold"), title_justify="left")
    table.add_column("metric")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _plain(evaluation: Evaluation) -> dict[str, Any]:
    sets = {
        name: {metric: value if math.isfinite(value) else None for metric, value in values.items()}
        for name, values in evaluation.sets.items()
    }
    return {"step": evaluation.step, "sets": sets}
