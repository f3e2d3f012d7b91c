"""An evaluation of two processes, one of which is killed, goes on where both were."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed

DEADLY = """
import os
import signal
import time
from pathlib import Path

from laser_lightning.rollout import TransformersEngine


class Deadly(TransformersEngine):
    def generate(self, *args):
        self._calls = getattr(self, "_calls", 0) + 1
        print(f"call {self._calls} on rank {os.environ['RANK']}", flush=True)
        if Path("die").exists() and os.environ["RANK"] == "1" and self._calls == 4:
            while '{"batch": 4' not in Path("run/kept/test/sums/rank0.jsonl").read_text():  # let the other be ahead
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(*args)
"""

OVERLAY = """
model: {engine: {class_path: deadly.Deadly}, self_reward: {init_args: {reference: -20.0}}}
data:
  test:
    sums: {class_path: laser_lightning.data.ArithmeticSource, init_args: {split: test, size: 11}}
    one: {class_path: laser_lightning.data.ArithmeticSource, init_args: {split: val, size: 1}}
  eval_prompts_per_batch: 1
export: null
calibration: null
"""


def metrics(run: Path) -> dict[str, str]:
    """The last row of a run's metrics, but for the clock's."""
    row = list(csv.DictReader((run / "metrics.csv").open()))[-1]
    return {name: value for name, value in row.items() if "second" not in name}


def test_two_processes_take_the_same_batches(experiment: Path, command: Callable[..., str]) -> None:
    (experiment / "deadly.py").write_text(DEADLY)
    (experiment / "test.yaml").write_text(OVERLAY)
    arguments = ["test", "--config", "run.yaml", "--config", "single.yaml", "--config", "strategy/ddp"]
    arguments += ["--config", "test.yaml", "--trainer.devices", "2"]
    # 6 batches of sums; the second process has no problem in the first one, and none of the other set.
    command(experiment, *arguments, "--run_dir", "whole")

    (experiment / "die").touch()
    command(experiment, *arguments, "--run_dir", "run", succeeds=False)
    (experiment / "die").unlink()
    output = command(experiment, *arguments, "--run_dir", "run")
    # The second process was killed in batch 4, where the first one was done with it.
    assert "4 of 6 batches of 'sums' were already there" in output
    assert "call 3 on rank 0" in output  # 2 of sums, and the other set
    assert "call 4 on rank 0" not in output
    assert "call 2 on rank 1" in output
    assert "call 3 on rank 1" not in output

    output = command(experiment, *arguments, "--run_dir", "run")
    assert "6 of 6 batches of 'sums' were already there" in output
    assert "1 of 1 batches of 'one' were already there" in output
    assert "call 1" not in output
    assert metrics(experiment / "run") == metrics(experiment / "whole")
    lines = (experiment / "run/kept/test/one/rank1.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"batch": 0, "solutions": 0, "seconds": 0.0}
