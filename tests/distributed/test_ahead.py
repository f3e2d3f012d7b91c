"""Rounds drawn ahead, by processes of their own: killed runs are the run that nobody killed, and leave no process."""

import csv
import os
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import pytest
import yaml
from experiments import ENVIRONMENT, write_experiment
from forked_ranks import run_ranks

pytestmark = pytest.mark.distributed

DEADLY = """
import io
import os
import signal
from pathlib import Path

import torch
from lightning.pytorch import Callback


class Deadly(Callback):
    def __init__(self, moment: str = "", step: int = -1):
        self.moment, self.step = moment, step

    def on_train_start(self, trainer, pl_module):
        found = {
            "rollout": (pl_module.sampler, "judge"),
            "hand-over": (pl_module.engine, "take_weights"),
            "drawing": (pl_module.sampler, "draw_meanwhile"),
            "update": (pl_module, "differentiable"),
            "writing": (torch, "save"),
            "renaming": (Path, "replace"),
        }
        if self.moment not in found:
            return
        owner, name = found[self.moment]
        original = getattr(owner, name)

        def deadly(*args, **options):
            if trainer.global_step < self.step:
                return original(*args, **options)
            if self.moment == "writing":
                whole = io.BytesIO()
                original(args[0], whole)
                args[1].write(whole.getvalue()[: len(whole.getvalue()) // 2])
                args[1].flush()
            elif self.moment in ("drawing", "update"):
                original(*args, **options)
            if (process := pl_module.engine._process) is not None:
                with open(f"processes.{trainer.global_rank}", "a") as file:
                    file.write(f"{process.pid} ")
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, deadly)
"""
AHEAD = """
model:
  init_args:
    engine: {class_path: laser_lightning.EngineProcess, init_args: {threads: 1}}
    rollout: {ahead: 1}
    update: {mini_batches: 1}
    evaluation: {at_start: false, at_end: false}
checkpoint: {every_n_train_steps: 1}
export: null
"""
MOMENTS = ["rollout", "hand-over", "drawing", "update", "writing", "renaming"]


def fit(directory: Path, run: str, steps: int, processes: int, moment: str = "", step: int = -1) -> list[int | None]:
    """Start a run, or go on from its newest checkpoint; how each rank ended."""
    deadly = {"class_path": "deadly.Deadly", "init_args": {"moment": moment, "step": step}}
    (directory / "deadly.yaml").write_text(f"trainer: {{callbacks: [{deadly}]}}")
    overlays = ["run.yaml", "single.yaml" if processes == 1 else "strategy/zero2", "ahead.yaml", "deadly.yaml"]
    words = ["-m", "laser_lightning", "fit", *(word for name in overlays for word in ("--config", name))]
    words += ["--run_dir", run, "--ckpt_path", "auto", "--trainer.max_steps", str(steps)]
    codes, printed = run_ranks(words, processes, 100, directory, ENVIRONMENT)
    assert set(codes) <= {0, -9}, printed[-5000:]
    return codes


def is_gone(process: int) -> bool:
    for _ in range(500):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def deaths(kills: int) -> Iterator[tuple[int, str]]:
    """Steps and moments, in turn."""
    return enumerate(islice(cycle(MOMENTS), kills), start=1)


# One process dies in each of the moments; `benchmarks/kill_runs.py --ahead` kills as often as one likes.
@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, len(MOMENTS)), (2, 2)], ids=["single", "zero2"])
def test_a_run_that_is_killed_again_and_again(
    processes: int, kills: int, tmp_path: Path, difference: Callable[[Path, Path], list[str]]
) -> None:
    write_experiment(tmp_path)
    (tmp_path / "deadly.py").write_text(DEADLY)
    (tmp_path / "ahead.yaml").write_text(AHEAD)
    steps = kills + 2
    assert fit(tmp_path, "whole", steps, processes) == [0] * processes
    for step, moment in deaths(kills):
        assert fit(tmp_path, "killed", steps, processes, moment, step) == [-9] * processes, (moment, step)
    assert fit(tmp_path, "killed", steps, processes) == [0] * processes
    last = f"checkpoints/step={steps}.ckpt"
    assert difference(tmp_path / "killed" / last, tmp_path / "whole" / last) == []
    noted = [int(word) for path in tmp_path.glob("processes.*") for word in path.read_text().split()]
    assert len(noted) >= kills * processes // 2
    assert all(is_gone(process) for process in noted)


SEEDED = """
model:
  init_args:
    engine: {init_args: {engine: {class_path: seeded_engine.SeededEngine}}}
    self_reward: {init_args: {reference: -5.0}}
    optimizer: {algorithm: sgd, learning_rate: 1.0e-3, warmup_steps: 0, schedule: constant, max_grad_norm: null}
trainer: {max_steps: 3, limit_val_batches: 0}
calibration: null
checkpoint: null
"""
NAMES = ("loss", "gradient_norm", "reward", "importance_weight", "mismatch/token_log_prob", "rollout/staleness")


def rows(path: Path) -> list[list[float]]:
    lines = [line for line in csv.DictReader(path.open()) if line["train/loss"]]
    return [[float(line[f"train/{name}"]) for name in NAMES] for line in lines]


def test_two_processes_take_the_steps_of_one(command: Callable[..., str], experiment: Path) -> None:
    """Under ZeRO-3 weights are gathered layer by layer on their way to two engines, which then draw for themselves."""
    run = yaml.safe_load((experiment / "run.yaml").read_text())
    run["model"]["init_args"]["policy"] = {"path": "embedded"}  # a random one starts otherwise under ZeRO-3
    (experiment / "run.yaml").write_text(yaml.safe_dump(run))
    (experiment / "ahead.yaml").write_text(AHEAD)
    (experiment / "seeded.yaml").write_text(SEEDED)
    overlays = [word for name in ("run.yaml", "ahead.yaml", "seeded.yaml") for word in ("--config", name)]
    command(experiment, "fit", *overlays, "--config", "single.yaml", "--run_dir", "one", processes=1)
    command(experiment, "fit", "--config", "strategy/zero3", *overlays, "--run_dir", "two")
    one, two = rows(experiment / "one/metrics.csv"), rows(experiment / "two/metrics.csv")
    assert [row[-1] for row in one] == [0, 1, 1]
    for ours, theirs in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
