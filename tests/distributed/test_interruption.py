"""Two processes of which one is told to stop leave together within seconds, whatever the other one waits for."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.distributed

LIMIT_SECONDS = 10
OPTIONS = [
    "--trainer.max_steps=4",
    "--model.engine=slow.SlowEngine",
    "--model.policy_loss=slow.SlowLoss",
    "--model.update.mini_batches=1",
    "--model.update.kl_coef=0.0",
]


# Which part takes for ever on which rank, and which rank is told.
@pytest.mark.parametrize(
    ("overlay", "plan", "told"),
    [
        ("ddp.yaml", "rollout 2 1", 1),  # rank 0 waits for it
        ("ddp.yaml", "rollout 2 1", 0),  # told while it waits in a collective operation
        ("strategy/zero3", "rollout 2 0", 1),  # with the weights gathered
    ],
)
def test_both_leave_and_go_on_exactly(
    overlay: str,
    plan: str,
    told: int,
    command: Callable[..., str],
    interrupt: Callable[..., Any],
    experiment: Path,
    difference: Callable[[Path, Path], list[str]],
) -> None:
    (experiment / "ddp.yaml").write_text("trainer: {strategy: laser_ddp}")
    fit = ["fit", "--config", "run.yaml", "--config", overlay, *OPTIONS]
    command(experiment, *fit, "--run_dir", "whole")

    (experiment / "slow").write_text(plan)
    times: list[float] = []

    def tell(agent: subprocess.Popen[str]) -> None:
        time.sleep(1.0)  # the other one has come to its collective operation
        times.append(time.monotonic())
        os.kill(int((experiment / f"pid{told}").read_text()), signal.SIGTERM)
        agent.wait(timeout=60)
        times.append(time.monotonic())

    stopped = interrupt(experiment, *fit, "--run_dir", "stopped", appears="inside", then=tell)
    assert re.search(r"stopped by SIGTERM behind step 1, with a checkpoint", stopped.output), stopped.output[-5000:]
    assert times[1] - times[0] < LIMIT_SECONDS

    (experiment / "slow").unlink()
    command(experiment, *fit, "--run_dir", "stopped", "--ckpt_path", "last")
    last = "checkpoints/step=4.ckpt"
    assert difference(experiment / "whole" / last, experiment / "stopped" / last) == []
