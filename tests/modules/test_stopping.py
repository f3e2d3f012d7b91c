"""A run that is told to stop in the middle of an evaluation saves and leaves, and does what is left when resumed."""

import csv
import shutil
import signal
import sys
from pathlib import Path

import pytest

from laser_lightning.cli.command_line import main

TELLER = """
import os
import signal

from lightning.pytorch import Callback


class Teller(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
"""
FIT = ["fit", "--config", "run.yaml", "--trainer.max_steps=6", "--trainer.val_check_interval=2"]


@pytest.fixture(autouse=True)
def experiment(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    (tmp_path / "teller.py").write_text(TELLER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("teller", "length_verifier"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def evaluations(run: str) -> dict[str, list[dict[str, str]]]:
    """The values of every evaluation by step, but for the clock's, from all files that a run left."""
    found: dict[str, list[dict[str, str]]] = {}
    for path in sorted(Path(run).glob("metrics*.csv")):
        for row in csv.DictReader(path.open()):
            values = {
                name: value for name, value in row.items() if name.startswith("val/") and value and "second" not in name
            }
            if values:
                found.setdefault(row["step"], []).append(values)
    return found


def told_at(step: int, run: str) -> int:
    teller = f"--trainer.callbacks={{class_path: teller.Teller, init_args: {{step: {step}}}}}"
    return main([*FIT, "--run_dir", run, teller])


# Rounds have two optimizer steps. 0: before the first; 4: every second round; 6: behind the last one.
@pytest.mark.parametrize("step", [0, 4, 6])
def test_a_signal_during_an_evaluation(step: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, "--run_dir", "whole"]) == 0
    assert sorted(evaluations("whole")) == ["0", "4", "6"]
    assert told_at(step, "told") == 128 + signal.SIGTERM
    assert f"stopped by SIGTERM behind step {step}, with a checkpoint" in capsys.readouterr().err
    assert str(step) not in evaluations("told")
    assert Path("told/export").exists() == (step == 6)
    assert main([*FIT, "--run_dir", "told", "--ckpt_path", "last"]) == 0
    assert evaluations("told") == evaluations("whole")
    weights = [Path(run, "export/last/model.safetensors").read_bytes() for run in ("whole", "told")]
    assert weights[0] == weights[1]


# ------------------------------------------------------------ early stopping


def stopped_early(monitor: str, run: str) -> int:
    settings = f"{{monitor: {monitor}, mode: max, stopping_threshold: 0.0}}"
    stopping = f"--trainer.callbacks={{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {settings}}}"
    return main([*FIT, "--trainer.val_check_interval=1", "--run_dir", run, stopping])


def test_early_stopping_on_a_metric_of_training_waits_for_the_first_step() -> None:
    assert stopped_early("train/learning_rate", "run") == 0
    # Of the evaluations at 0, 2, 4 and 6 the second is the first that finds a rate, which is above 0.
    assert list(evaluations("run")) == ["0", "2"]


def test_early_stopping_on_a_metric_that_there_is_not_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert stopped_early("train/rewart", "run") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("laser-lightning: error: Early stopping conditioned on metric `train/rewart` which is not")
    assert "`train/reward`" in last  # among those that there are
