"""What a run cannot write ends it in a sentence that names the place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laser_lightning.callbacks import (
    EvaluationReport,
    HuggingFaceExport,
    Predictions,
    RunCheckpoint,
    RunSummary,
    SelfRewardFigures,
    SolutionLog,
)
from laser_lightning.cli.run_loggers import MetricsWritten
from laser_lightning.errors import UserError
from laser_lightning.runs.metrics_file import MetricsFile

CAUSES = r"(\[Errno \d+\]|File exists).*GiB are free there\)\. See to the cause"


@pytest.mark.parametrize(
    ("callback", "command", "place", "what"),
    [
        (HuggingFaceExport(), "fit", "export", "The export .*/export/last"),
        (SelfRewardFigures(), "fit", "figures", "Figures in .*/figures"),
        (RunSummary(), "fit", "summary.json/directory", r"The summary .*/summary\.json"),
        (SolutionLog(), "fit", "solutions", "Solutions in .*/solutions"),
        (EvaluationReport(), "test", "evaluation", "The report .*/evaluation"),
        (Predictions(), "predict", "predictions", "Predictions in .*/predictions"),
    ],
    ids=["export", "figures", "summary", "solutions", "report", "predictions"],
)
def test_a_place_that_is_taken(
    callback: Any, command: str, place: str, what: str, make_run: Callable[..., Any], tmp_path: Path
) -> None:
    taken = tmp_path / "run" / place
    taken.parent.mkdir(parents=True)
    taken.touch()  # a file where a directory belongs, or the other way round
    run = make_run(callback, max_steps=1)
    with pytest.raises(UserError, match=f"^{what} could not be written: {CAUSES}"):
        getattr(run, command)()


def test_a_link_that_cannot_be_renewed(make_run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "saves/.last.ckpt.new").mkdir(parents=True)
    run = make_run(RunCheckpoint(1, dirpath=tmp_path / "saves"), max_steps=1)
    with pytest.raises(UserError, match=rf"^The link .*/saves/last\.ckpt could not be written: {CAUSES}"):
        run.fit()
    assert (tmp_path / "saves/step=1.ckpt").is_file()


def test_metrics_that_cannot_be_written_end_the_run_before_the_next_step(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    file = MetricsFile(tmp_path / "own")
    file.path.mkdir(parents=True)
    run = make_run(MetricsWritten(file), max_steps=5, other_loggers=[file], trainer_options={"limit_val_batches": 0})
    with pytest.raises(UserError, match=rf"^The table of metrics .*/own/metrics\.csv could not be written: {CAUSES}"):
        run.fit()
    assert run.trainer.global_step == 1


def test_metrics_without_anybody_who_asks_fail_at_once(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "own")
    file.path.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        file.log_metrics({"loss": 1.0}, 1)
