"""A run killed with SIGKILL and resumed is, bit for bit, the run that was not."""

import csv
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning.cli.command_line import main

OPTIONS = [
    "--trainer.max_steps=16",
    "--trainer.val_check_interval=4",
    "--checkpoint.every_n_train_steps=2",
    "--checkpoint.asynchronous=true",
    "--model.sampling.max_response_tokens=16",
    "--model.optimizer.learning_rate=1e-3",
]


def fit(run: str) -> list[str]:
    """The words of a run's command."""
    return ["fit", "--config", "run.yaml", *OPTIONS, "--run_dir", run]


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step={step}.ckpt"


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.005)


def metrics(run: Path) -> list[dict[str, str]]:
    """The rows of the metrics, without what is a time."""
    assert not (run / "metrics.1.csv").exists()
    with (run / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if "second" not in name} for row in csv.DictReader(file)]


def assert_equal(ours: Any, theirs: Any, where: str = "") -> None:
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs) or bool(ours.isnan().all() and theirs.isnan().all()), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(one, other, f"{where}/{index}")
    else:
        assert ours == theirs, where


def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "length_verifier", raising=False)  # of another test's directory
    # Only the one that is killed needs a process of its own.
    command = [sys.executable, "-m", "laser_lightning", *fit("killed")]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    # An epoch has 4 optimizer steps: step 6 is in the middle of one.
    wait_for(checkpoint(tmp_path / "killed", 6), killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert main([*fit("killed"), "--ckpt_path", str(checkpoint(tmp_path / "killed", 6))]) == 0
    assert main(fit("whole")) == 0

    whole, resumed = (torch.load(checkpoint(tmp_path / run, 16), weights_only=True) for run in ("whole", "killed"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "laser_random_states", "global_step", "epoch"):
        assert_equal(resumed[part], whole[part], part)
    expected = metrics(tmp_path / "whole")
    assert expected[0].keys() >= {"train/loss", "train/reward", "val/sums/pass@1", "train/self_reward/mean"}
    assert metrics(tmp_path / "killed") == expected
