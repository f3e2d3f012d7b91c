"""``metrics.csv``: one table of the whole run, however often it was killed and resumed."""

import csv
import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

SAVED_METRICS = "laser_metrics"
"""Key in a checkpoint: how far the table was, and the row that Lightning writes only behind the checkpoint."""

Row = dict[str, str]


class MetricsTable(ExperimentWriter):
    """The file, which is whole after each row.

    A row is appended; one with new columns makes a new file, put in place by a rename. Lightning's own writer deletes
    the file that it finds.

    Args:
        directory: of the run.
        name: of the file.

    Attributes:
        count: rows in the file.
    """

    def __init__(self, directory: str, name: str) -> None:
        super().__init__(directory)
        self.path = Path(directory) / name
        self.count = 0
        self._repeatable: list[Row] = []

    def _check_log_dir_exists(self) -> None:
        """Leave the files of the directory as they are."""

    def resume(self, count: int | None, unwritten: dict[str, Any] | None, step: int) -> None:
        """Take up the table of the run that a checkpoint is of.

        Rows behind the checkpoint are dropped, since the run makes them again: those of later steps, and a last one
        that a kill cut off. Rows of the checkpoint's own step stay (an evaluation behind it, say), until the run
        makes them again.

        Args:
            count: rows when the checkpoint was written; None if it does not say, for all up to its step.
            unwritten: the row of the step behind which it was written, if that was not in the file yet.
            step: optimizer steps behind the checkpoint.
        """
        if not self.path.exists():
            return
        rows = self._read()
        if count is None:
            count = sum(int(row["step"]) <= step for row in rows)
        kept, later = rows[:count], [row for row in rows[count:] if int(row["step"]) <= step]
        if unwritten is not None:
            written = next((row for row in later if _same(row, unwritten)), None)
            kept.append({name: str(value) for name, value in unwritten.items()} if written is None else written)
            later = [row for row in later if row is not written]
        self._repeatable = later
        self._replace([*kept, *later])

    def save(self) -> None:
        """Write the rows that were logged since."""
        rows, self.metrics = self.metrics, []
        for row in rows:
            repeated = next((old for old in self._repeatable if _same(old, row)), None)
            if repeated is not None:
                self._repeatable.remove(repeated)
                there = self._read()
                there.remove(repeated)
                self._replace(there)
            self._append(row)

    def _append(self, row: dict[str, Any]) -> None:
        if not set(row) <= set(self.metrics_keys):
            there = self._read() if self.count else []
            self.metrics_keys = sorted({*self.metrics_keys, *row})
            self._replace(there)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.metrics_keys).writerow(row)
        self.count += 1

    def _read(self) -> list[Row]:
        """The rows that are there, without one that a kill cut off."""
        text = self.path.read_bytes().decode("utf-8")
        whole = io.StringIO(text[: text.rfind("\n") + 1], newline="")
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(whole)]

    def _replace(self, rows: list[Row]) -> None:
        self.metrics_keys = sorted({*self.metrics_keys, *(name for row in rows for name in row)})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)
        self.count = len(rows)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows are of one step and have a metric in common."""
    return int(one["step"]) == int(other["step"]) and bool((one.keys() & other.keys()) - {"step", "epoch"})


class MetricsFile(CSVLogger):
    """Lightning's ``CSVLogger`` on a ``MetricsTable``.

    Args:
        directory: of the run.
        filename: of the table.

    Attributes:
        tells_later: whether a failure of the disk is raised by ``tell`` alone, which somebody calls now and then: one
            process writes, and the others are to end with it.
    """

    def __init__(self, directory: Path, filename: str = "metrics.csv") -> None:
        # Without a prefix the names are the metrics' own; every row is on disk before the next step.
        super().__init__(directory.parent, name="", version=directory.name, flush_logs_every_n_steps=1)
        self.filename = filename
        self.tells_later = False
        self._failure: OSError | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsTable:
        """The table; on processes that do not write, a stand-in of Lightning's."""
        return self.table()

    @property
    def path(self) -> Path:
        """Of the table."""
        return Path(self.log_dir) / self.filename

    def table(self) -> MetricsTable:
        """The table, on the process that writes."""
        if self._experiment is None:
            self._experiment = MetricsTable(self.log_dir, self.filename)
        assert isinstance(self._experiment, MetricsTable)
        return self._experiment

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that were logged since."""
        self.attempt(super().save)

    def attempt(self, write: Callable[[], None]) -> None:
        """Do something with the table, whose failure is told now or later."""
        try:
            write()
        except OSError as error:
            if not self.tells_later:
                raise
            self._failure = self._failure or error

    def tell(self) -> None:
        """Raise the failure that is to be told, if there is one."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


class MetricsInCheckpoints(Callback):
    """Saves in each checkpoint how far ``metrics.csv`` is, and cuts the file there when a run resumes from it.

    Lightning writes the metrics of a step behind the checkpoints of that step. A run that is killed in between would
    lose the row; so the checkpoint holds it.

    Args:
        file: the run's logger.
    """

    def __init__(self, file: MetricsFile) -> None:
        self.file = file
        self._rows_before: int | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note that no row waits."""
        self._rows_before = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note how many rows there are without that of this step."""
        if trainer.is_global_zero and trainer._logger_connector.should_update_logs:
            self._rows_before = self.file.table().count

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the number of rows, and the row that is not written yet."""
        if trainer.is_global_zero:
            count = self.file.table().count
            unwritten = _row_of_step(trainer) if count == self._rows_before else None
            checkpoint[SAVED_METRICS] = {"count": count, "unwritten": unwritten}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Cut the table where the checkpoint was written."""
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING:
            saved = checkpoint.get(SAVED_METRICS) or {"count": None, "unwritten": None}
            resume = partial(self.file.table().resume, saved["count"], saved["unwritten"], checkpoint["global_step"])
            self.file.attempt(resume)


def _row_of_step(trainer: Trainer) -> dict[str, Any] | None:
    """What Lightning will log of the step that just ended."""
    row: dict[str, Any] = convert_tensors_to_scalars(trainer._logger_connector.metrics["log"])
    if not row:
        return None
    if "step" not in row:
        row |= {"epoch": trainer.current_epoch, "step": trainer.fit_loop.epoch_loop._batches_that_stepped}
    return row | {"step": int(row["step"])}
