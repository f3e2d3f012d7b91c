"""The table of metrics when a run is killed behind a checkpoint, before it, and in the middle of a row."""

import csv
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from laser_lightning.runs.metrics_file import SAVED_METRICS, MetricsFile, MetricsInCheckpoints


def rows(directory: Path) -> list[dict[str, str]]:
    """The rows without their empty cells."""
    with (directory / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def log(file: MetricsFile, *steps: int, **metrics: float) -> None:
    for step in steps:
        file.log_metrics(metrics or {"loss": step / 2}, step)


def test_a_row_is_on_disk_at_once_and_columns_are_added(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "run")
    log(file, 1)
    assert (tmp_path / "run/metrics.csv").read_bytes() == b"loss,step\r\n0.5,1\r\n"
    log(file, 1, value=0.25)
    log(file, 2)
    assert (tmp_path / "run/metrics.csv").read_bytes() == b"loss,step,value\r\n0.5,1,\r\n,1,0.25\r\n1.0,2,\r\n"


def test_what_a_resumed_run_repeats_is_dropped_and_the_rest_stays(tmp_path: Path) -> None:
    log(MetricsFile(tmp_path), 1, 2, 3, 4, 5)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("3.0")  # of step 6: a kill cut the row off
    resumed = MetricsFile(tmp_path)
    resumed.table().resume(count=3, unwritten=None, step=3)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3"]
    log(resumed, 4, new=7.0)
    assert rows(tmp_path)[2:] == [{"loss": "1.5", "step": "3"}, {"new": "7.0", "step": "4"}]
    assert resumed.table().count == 4


def test_the_row_of_the_checkpoints_step_is_not_lost(tmp_path: Path) -> None:
    log(MetricsFile(tmp_path), 1, 2)
    unwritten = {"loss": 1.5, "step": 3}
    # The kill came before the row ...
    MetricsFile(tmp_path).table().resume(count=2, unwritten=unwritten, step=3)
    assert rows(tmp_path)[2:] == [{"loss": "1.5", "step": "3"}]
    # ... or behind it.
    MetricsFile(tmp_path).table().resume(count=2, unwritten=unwritten, step=3)
    assert rows(tmp_path)[2:] == [{"loss": "1.5", "step": "3"}]


def test_an_evaluation_behind_the_checkpoint_stays_until_it_is_repeated(tmp_path: Path) -> None:
    log(MetricsFile(tmp_path), 1, 2)
    before = MetricsFile(tmp_path)
    before.table().resume(count=2, unwritten=None, step=2)
    log(before, 2, value=0.25)
    log(before, 3)
    resumed = MetricsFile(tmp_path)
    resumed.table().resume(count=2, unwritten=None, step=2)
    assert rows(tmp_path)[2:] == [{"value": "0.25", "step": "2"}]
    log(resumed, 2, value=0.5)
    log(resumed, 2, value=0.75)  # not of the earlier session
    assert [row["value"] for row in rows(tmp_path)[2:]] == ["0.5", "0.75"]
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "2", "2"]


def test_a_step_that_was_skipped_behind_the_checkpoint_is_counted_once(tmp_path: Path) -> None:
    # A skipped step has the number of the step before it: 2 rows of step 2, of which the checkpoint knows one.
    first = MetricsFile(tmp_path)
    log(first, 1, 2)
    log(first, 2, loss=9.0)
    resumed = MetricsFile(tmp_path)
    resumed.table().resume(count=2, unwritten=None, step=2)
    log(resumed, 2, loss=9.0)
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [("1", "0.5"), ("2", "1.0"), ("2", "9.0")]


def test_a_checkpoint_that_says_nothing_of_the_table_keeps_the_rows_up_to_its_step(tmp_path: Path) -> None:
    log(MetricsFile(tmp_path), 1, 2, 3)
    MetricsFile(tmp_path).table().resume(count=None, unwritten=None, step=2)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2"]


def test_without_a_file_there_is_nothing_to_continue(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "new").table().resume(count=3, unwritten={"loss": 1.0, "step": 3}, step=3)
    assert not (tmp_path / "new/metrics.csv").exists()


class SaveBehindStep(Checkpoint):
    """Saves behind every step, where its row is not yet in the file, and behind every evaluation, where it is."""

    def __init__(self) -> None:
        self.saved: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._save(trainer)

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self.saved.append(trainer._checkpoint_connector.dump_checkpoint()[SAVED_METRICS])


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_has_the_row_that_is_not_written_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "stand_ins")
    stand_ins = import_module("stand_ins")
    file, saver = MetricsFile(tmp_path / "run"), SaveBehindStep()
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    callbacks = [saver, MetricsInCheckpoints(file)]
    trainer = Trainer(accelerator="cpu", logger=file, callbacks=callbacks, max_steps=2, log_every_n_steps=1, **quiet)
    torch.manual_seed(0)
    trainer.fit(stand_ins.Net(stand_ins.Score("z")), datamodule=stand_ins.Data(stand_ins.Numbers(4)))
    step_0, step_1, evaluation = rows(tmp_path / "run")
    assert [saved["count"] for saved in saver.saved] == [0, 1, 3]
    assert [saved["unwritten"] and {k: str(v) for k, v in saved["unwritten"].items()} for saved in saver.saved] == [
        step_0,
        step_1,
        None,
    ]
    assert evaluation["value"] == "1.0"
