"""RISE's steps on two processes are those of one, with two verifications of each solution."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.distributed

# The model writes few verdicts: here every verification of even length finds its solution correct.
OVERLAY = """
model:
  init_args:
    engine: {class_path: seeded_engine.SeededEngine}
    verification_prompts:
      verdict_pattern: '^(?:..)*(.?)$'
      correct_verdict: ""
      incorrect_verdict: "no"
      max_response_tokens: 6
      samples: 2
    self_reward: {init_args: {reference: -5.0}}
    optimizer: {algorithm: sgd, warmup_steps: 0, schedule: constant, max_grad_norm: null}
    update: {mini_batches: 1}
trainer: {max_steps: 3, limit_val_batches: 0}
calibration: null
checkpoint: null
export: null
"""
NAMES = ("loss", "gradient_norm", "reward", "generated_tokens", "verification/accuracy", "verification/response_tokens")


def rows(path: Path) -> list[list[float]]:
    lines = [line for line in csv.DictReader(path.open()) if line["train/loss"]]
    return [[float(line[f"train/{name}"]) for name in (*NAMES, "self_reward/f1")] for line in lines]


def test_two_processes_take_the_steps_of_one(command: Callable[..., str], experiment: Path) -> None:
    run = yaml.safe_load((experiment / "run.yaml").read_text())
    run["model"]["init_args"]["policy"] = {"path": "embedded"}  # a random one starts otherwise under ZeRO-3
    (experiment / "run.yaml").write_text(yaml.safe_dump(run))
    (experiment / "overlay.yaml").write_text(OVERLAY)
    overlays = ["--config", "run.yaml", "--config", "baselines/rise", "--config", "overlay.yaml"]
    command(experiment, "fit", *overlays, "--config", "single.yaml", "--run_dir", "one", processes=1)
    command(experiment, "fit", "--config", "strategy/zero3", *overlays, "--run_dir", "two")
    one, two = rows(experiment / "one/metrics.csv"), rows(experiment / "two/metrics.csv")
    assert len(one) == 3
    assert 0 < one[-1][4] < 1
    for ours, theirs in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
