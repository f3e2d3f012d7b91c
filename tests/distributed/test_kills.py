"""A run killed with SIGKILL in rollout, update and save loses no more than since its last checkpoint, and no bit."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.distributed

DEADLY = """
import io
import os
import signal
from pathlib import Path

import torch
from lightning.pytorch import Callback


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly(Callback):
    def __init__(self, moment: str, step: int):
        self.moment, self.step = moment, step

    def on_train_start(self, trainer, pl_module):
        owner, name = {
            "rollout": (pl_module.engine, "generate"),
            "update": (pl_module, "differentiable"),
            "writing": (torch, "save"),
            "renaming": (Path, "replace"),
        }[self.moment]
        original = getattr(owner, name)

        def deadly(*args, **options):
            if trainer.global_step < self.step:
                return original(*args, **options)
            if self.moment == "writing":
                whole = io.BytesIO()
                original(args[0], whole)
                args[1].write(whole.getvalue()[: len(whole.getvalue()) // 2])
                args[1].flush()
            elif self.moment != "renaming":
                original(*args, **options)
            die()

        setattr(owner, name, deadly)
"""


def steps(run: Path) -> list[int]:
    """The optimizer steps in the metrics of a run."""
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [int(row["step"]) for row in rows if row["train/loss"]]


def test_a_run_that_is_killed_again_and_again(
    command: Callable[..., str],
    experiment: Path,
    whole_run: Path,
    difference: Callable[[Path, Path], list[str]],
) -> None:
    (experiment / "deadly.py").write_text(DEADLY)
    fit = ["fit", "--config", "run.yaml", "--config", "single.yaml", "--trainer.max_steps", "24"]
    fit += ["--run_dir", "killed", "--ckpt_path", "auto"]
    # Checkpoints are saved every 4 steps: where each death happens, and what the next run finds.
    deaths: list[tuple[str, int, str]] = [
        ("rollout", 6, "There is no complete checkpoint"),
        ("update", 10, "step=4.ckpt, the newest complete"),
        ("writing", 12, "step=8.ckpt, the newest complete"),
        ("renaming", 16, "step=8.ckpt, the newest complete"),
    ]
    for moment, step, found in deaths:
        deadly: dict[str, Any] = {"class_path": "deadly.Deadly", "init_args": {"moment": moment, "step": step}}
        (experiment / "deadly.yaml").write_text(f"trainer: {{callbacks: [{deadly}]}}")
        overlay = ["--config", "deadly.yaml"]
        output = command(experiment, *fit, *overlay, processes=1, succeeds=False)
        assert found in output, (moment, output[-3000:])
        assert ("Restored all states from the checkpoint" in output) == ("newest" in found)
    assert "step=12.ckpt, the newest complete" in command(experiment, *fit, processes=1)
    # The metrics are whole, and no step was counted twice; a round has two steps.
    assert steps(experiment / "killed") == list(range(2, 25, 2))
    assert [path.name for path in (experiment / "killed").glob("metrics*")] == ["metrics.csv"]
    assert difference(whole_run, experiment / "killed/checkpoints/step=24.ckpt") == []
    assert not list((experiment / "killed/checkpoints").glob(".*"))
