"""Vote rules on two processes: they learn, and save, what one process does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.distributed

OVERLAY = """
model:
  init_args:
    engine: {class_path: seeded_engine.SeededEngine}
    self_reward: {init_args: {reference: -5.0}}
    optimizer: {algorithm: sgd, warmup_steps: 0, schedule: constant, max_grad_norm: null}
    update: {mini_batches: 1}
    evaluation:
      votes:
      - class_path: laser_lightning.metrics.CalibratedVote
      - class_path: laser_lightning.metrics.BestRule
        init_args: {rounds: 2}
trainer: {max_steps: 3, limit_val_batches: 0}
calibration: null
checkpoint: {every_n_train_steps: 1}
export: null
"""


def votes(run: Path) -> dict[str, Any]:
    return dict(torch.load(run / "checkpoints/step=3.ckpt", weights_only=True)["laser_votes"])


def test_two_processes_learn_as_one_does(command: Callable[..., str], experiment: Path) -> None:
    (experiment / "overlay.yaml").write_text(OVERLAY)
    fit = ["fit", "--config", "run.yaml", "--config", "overlay.yaml", "--config", "single.yaml"]
    command(experiment, *fit, "--run_dir", "one", processes=1)
    command(experiment, *fit, "--config", "strategy/ddp", "--trainer.devices", "2", "--run_dir", "two")
    one, two = votes(experiment / "one"), votes(experiment / "two")
    assert [len(state["rounds"]) for state in two.values()] == [3, 2]
    # Scores of later rounds are of weights that differ by rounding; nothing else does.
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    compared = two["best_rule"]["rounds"][0]
    assert (compared["problem_ids"] % 2 == 1).all()
    assert len(compared["problem_ids"]) > 1
