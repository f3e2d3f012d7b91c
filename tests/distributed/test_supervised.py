"""The supervised stage on two processes is that on one, with an evaluation set smaller than the processes too."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed

OPTIONS = [
    "--model.policy.config_overrides={hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1}",
    "--data.train.init_args.size=64",
    "--data.val.arithmetic.init_args.size=1",
    "--data.prompts_per_step=16",
    "--model.optimizer.warmup_steps=1",
    "--trainer.max_steps=3",
    "--trainer.val_check_interval=3",
    "--trainer.enable_progress_bar=false",
]


def losses(run: Path) -> list[float]:
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    return [float(row[name]) for name in ("train/loss", "val/arithmetic/loss") for row in rows if row[name]]


def test_two_processes_report_the_losses_of_one(command: Callable[..., str], tmp_path: Path) -> None:
    fit = ["fit", "--config", "warm_start"]
    command(tmp_path, *fit, *OPTIONS, "--run_dir", "one", processes=1)
    two = ["--config", "strategy/ddp", "--trainer.devices", "2"]
    output = command(tmp_path, *fit, *two, *OPTIONS, "--run_dir", "two")
    assert "sync_dist" not in output
    assert len(losses(tmp_path / "one")) == 4
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
