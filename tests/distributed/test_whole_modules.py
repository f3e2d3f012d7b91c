"""Steps of whole modules on two processes are those of one."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.distributed

OVERLAY = """
model:
  init_args:
    engine: {class_path: seeded_engine.SeededEngine}
    self_reward: {init_args: {reference: -5.0}}
    optimizer: {algorithm: sgd, warmup_steps: 0, schedule: constant, max_grad_norm: null}
    update: {mini_batches: 1}
trainer: {max_steps: 3, limit_val_batches: 0}
calibration: null
checkpoint: null
export: null
"""
# A form that the model writes by chance, a filter that drops groups at once, and what is compared besides the loss.
FORMS = {
    "spoc": ('{self_correction: {verification_pattern: "([0-9])", correct_verdict: "3"}}', "self_correction/solutions"),
    "rlpr": (
        "{advantage: {shaping: [{class_path: laser_lightning.DropLowSpread, init_args: {first_steps: 1}}]}}",
        "reference_answer/probability",
    ),
}


def rows(path: Path, own: str) -> list[list[float]]:
    names = ("loss", "gradient_norm", "reward", "self_reward/mean", own)
    lines = [line for line in csv.DictReader(path.open()) if line["train/loss"]]
    return [[float(line[f"train/{name}"]) for name in names] for line in lines]


@pytest.mark.parametrize("name", FORMS)
def test_two_processes_take_the_steps_of_one(name: str, command: Callable[..., str], experiment: Path) -> None:
    run = yaml.safe_load((experiment / "run.yaml").read_text())
    run["model"]["init_args"]["policy"] = {"path": "embedded"}
    (experiment / "run.yaml").write_text(yaml.safe_dump(run))
    (experiment / "overlay.yaml").write_text(OVERLAY)
    (experiment / "form.yaml").write_text(f"model: {FORMS[name][0]}")
    overlays = ["--config", "run.yaml", "--config", f"methods/{name}"]
    overlays += ["--config", "overlay.yaml", "--config", "form.yaml"]
    command(experiment, "fit", *overlays, "--config", "single.yaml", "--run_dir", "one", processes=1)
    command(experiment, "fit", "--config", "strategy/zero3", *overlays, "--run_dir", "two")
    one, two = (rows(experiment / run / "metrics.csv", FORMS[name][1]) for run in ("one", "two"))
    assert len(one) == 3
    assert one[-1][-1] > 0
    for ours, theirs in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
