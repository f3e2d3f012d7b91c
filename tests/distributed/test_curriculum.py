"""A curriculum on two processes: they choose, learn and save what one process does, and resume bit for bit."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.distributed

EXAMPLE = Path(__file__).parents[2] / "docs/examples/my_curriculum.py"

# A step is filled within 3 rounds or not, by what both processes have.
OVERLAY = """
model:
  init_args:
    engine: {class_path: seeded_engine.SeededEngine}
    self_reward: {init_args: {reference: -5.0}}
    optimizer: {algorithm: sgd, warmup_steps: 0, schedule: constant, max_grad_norm: null}
    update: {mini_batches: 1}
    sampling_rounds: 3
data:
  init_args:
    curriculum: {class_path: my_curriculum.InstructiveKinds, init_args: {temperature: 0.1}}
    accuracy_bounds: {low: 0.3, high: 0.7}
trainer: {max_steps: 5, limit_val_batches: 0}
calibration: null
checkpoint: {every_n_train_steps: 1}
export: null
solution_log: {class_path: laser_lightning.callbacks.SolutionLog, init_args: {console_rows: 0, table_rows: 0}}
"""

DISAGREES = """
import os
from laser_lightning.data import Curriculum

class OwnWay(Curriculum):
    def choose(self, draw):
        return [draw.number + int(os.environ.get("RANK", 0)) + place for place in range(draw.count)]

    def learn(self, outcome):
        pass
"""


def learned(checkpoint: Path) -> dict[str, Any]:
    """The data's state in a checkpoint."""
    file = checkpoint / "checkpoint/mp_rank_00_model_states.pt" if checkpoint.is_dir() else checkpoint
    return dict(torch.load(file, weights_only=False)["PromptDataModule"])


def rewards(run: Path) -> list[float]:
    return [float(row["train/reward"]) for row in csv.DictReader((run / "metrics.csv").open()) if row["train/reward"]]


def problems(run: Path) -> list[list[int]]:
    """The problems of each file of solutions, in order; each has 4 solutions."""
    files = sorted((run / "solutions").glob("train*.jsonl"))
    return [[json.loads(line)["index"] for line in file.open()][::4] for file in files]


def test_two_processes_choose_as_one_does(
    command: Callable[..., str], experiment: Path, difference: Callable[[Path, Path], list[str]]
) -> None:
    shutil.copy(EXAMPLE, experiment)
    (experiment / "overlay.yaml").write_text(OVERLAY)
    overlays = ["--config", "run.yaml", "--config", "overlay.yaml"]
    command(experiment, "fit", *overlays, "--config", "single.yaml", "--run_dir", "one", processes=1)
    fit = ["fit", "--config", "strategy/zero2", *overlays]
    command(experiment, *fit, "--run_dir", "two")
    last = "checkpoints/step=5.ckpt"
    one, two = learned(experiment / "one" / last), learned(experiment / "two" / last)
    assert two == one
    assert len(set(one["learned"]["taught"].values())) > 2
    assert rewards(experiment / "two") == pytest.approx(rewards(experiment / "one"), abs=1e-6)
    # Of the 8 problems of every round rank 0 has the first, the third, ...
    ((alone,), pair) = problems(experiment / "one"), problems(experiment / "two")
    assert pair == [alone[rank::2] for rank in range(2)]
    assert 5 * 8 < len(alone) < 5 * 3 * 8  # some steps were full before the last round, and some were not

    shutil.copytree(experiment / "two/checkpoints/step=3.ckpt", experiment / "again/checkpoints/step=3.ckpt")
    command(experiment, *fit, "--run_dir", "again", "--ckpt_path", "last")
    assert difference(experiment / "two" / last, experiment / "again" / last) == []


def test_processes_that_disagree_end_the_run(command: Callable[..., str], experiment: Path) -> None:
    (experiment / "own_way.py").write_text(DISAGREES)
    options = ["--data.curriculum", "own_way.OwnWay", "--calibration", "null", "--export", "null"]
    options += ["--model.self_reward.reference", "-5", "--run_dir", "run"]
    fit = ["fit", "--config", "strategy/zero2", "--config", "run.yaml", *options]
    output = command(experiment, *fit, succeeds=False)
    assert "data.curriculum (OwnWay) chose other problems on one process than on another" in output
