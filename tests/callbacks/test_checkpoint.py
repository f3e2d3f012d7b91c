"""Checkpoints of runs whose optimizer steps come several at a time."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch.utils.data import DataLoader

from laser_lightning.callbacks import RunCheckpoint
from laser_lightning.callbacks.checkpoint import write_in_background
from laser_lightning.distributed.strategies import TrainingStrategy
from laser_lightning.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")


class TwoStepsPerBatch(lightning.LightningModule):
    """Takes two optimizer steps for each batch, so that ``global_step`` is never odd."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.linear = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, index: int) -> None:
        for _ in range(2):
            self.optimizers().step()  # type: ignore[union-attr]
        self.log("loss", float(self.trainer.global_step))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(directory: Path, max_steps: int, checkpoint: RunCheckpoint, resume: Path | None = None) -> list[str]:
    """The names of the checkpoints that a run leaves."""
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(accelerator="cpu", max_steps=max_steps, default_root_dir=directory, callbacks=checkpoint, **quiet)
    trainer.fit(TwoStepsPerBatch(), DataLoader(torch.ones(4, 1)), ckpt_path=resume)  # type: ignore[arg-type]
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1, [2, 4, 6, 8, 10]),
        (3, [4, 6, 10]),  # 3 is passed at 4, 6 is reached, 9 is passed at 10
        (4, [4, 8, 10]),  # the last step is saved too
        (50, [10]),
    ],
)
def test_multiples_are_reached_or_passed_and_the_end_is_saved(tmp_path: Path, every: int, expected: list[int]) -> None:
    names = fit(tmp_path, 10, RunCheckpoint(every_n_train_steps=every, save_top_k=-1))
    assert names == sorted(["last.ckpt", *(f"step={step}.ckpt" for step in expected)])
    assert (tmp_path / "checkpoints/last.ckpt").resolve().name == "step=10.ckpt"


def test_the_latest_is_kept_and_a_resumed_run_saves_no_step_twice(tmp_path: Path) -> None:
    assert fit(tmp_path, 6, RunCheckpoint(4)) == ["last.ckpt", "step=6.ckpt"]
    saved = (tmp_path / "checkpoints/step=6.ckpt").stat().st_mtime_ns
    last = tmp_path / "checkpoints/last.ckpt"
    assert fit(tmp_path, 6, RunCheckpoint(4), last) == ["last.ckpt", "step=6.ckpt"]
    assert (tmp_path / "checkpoints/step=6.ckpt").stat().st_mtime_ns == saved
    assert fit(tmp_path, 12, RunCheckpoint(4), last) == ["last.ckpt", "step=12.ckpt"]
    assert torch.load(last, weights_only=True)["global_step"] == 12


def test_with_a_monitor_the_latest_is_a_file_of_its_own(tmp_path: Path) -> None:
    # The smallest loss is that of the first round: 2.
    names = fit(tmp_path, 6, RunCheckpoint(2, monitor="loss"))
    assert names == ["last.ckpt", "step=2.ckpt"]
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


def test_the_number_of_steps_is_checked() -> None:
    with pytest.raises(UserError, match=r"checkpoint\.every_n_train_steps is 0, and must be at least 1"):
        RunCheckpoint(0)


# --------------------------------------------------------------- in the background


def test_a_run_that_saves_in_the_background_leaves_the_same_files(tmp_path: Path) -> None:
    left = []
    for asynchronous in (False, True):
        torch.manual_seed(0)
        names = fit(tmp_path / "run", 6, RunCheckpoint(4, asynchronous=asynchronous))
        directory = tmp_path / "run/checkpoints"
        left.append((names, (directory / "last.ckpt").readlink(), (directory / "step=6.ckpt").read_bytes()))
        (tmp_path / "run").rename(tmp_path / f"run_{asynchronous}")
    assert left[0][0] == ["last.ckpt", "step=6.ckpt"]
    assert left[0] == left[1]


def test_an_error_in_the_background_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"step=2\.ckpt could not be saved: .*No space left on device"):
        fit(tmp_path, 2, RunCheckpoint(asynchronous=True))
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_files_that_others_write_are_refused(tmp_path: Path) -> None:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(
        accelerator="cpu", plugins=[AsyncCheckpointIO()], callbacks=RunCheckpoint(asynchronous=True), **quiet
    )
    with pytest.raises(UserError, match=r"checkpoint\.asynchronous: trainer\.plugins has a AsyncCheckpointIO, which"):
        trainer.fit(TwoStepsPerBatch(), DataLoader(torch.ones(4, 1)))  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=r"checkpoint\.asynchronous: under DeepSpeed each process writes its own shards"
    ):
        write_in_background(SimpleNamespace(strategy=WritesItself()))  # type: ignore[arg-type]


class WritesItself(TrainingStrategy):
    """As DeepSpeed's."""

    writes_checkpoints = True
