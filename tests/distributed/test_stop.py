"""A run that is told to stop saves behind its step, leaves, and goes on bit for bit."""

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.distributed

LONG = ["--trainer.max_steps", "24", "--model.evaluation.at_end", "false"]


@pytest.mark.parametrize(("processes", "overlay"), [(1, "single.yaml"), (2, "strategy/zero2")])
def test_sigterm(
    processes: int,
    overlay: str,
    command: Callable[..., str],
    interrupt: Callable[..., Any],
    experiment: Path,
    difference: Callable[[Path, Path], list[str]],
) -> None:
    fit = ["fit", "--config", "run.yaml", "--config", overlay, *LONG]
    command(experiment, *fit, "--run_dir", "whole", processes=processes)
    fit += ["--run_dir", "stopped"]
    stopped = interrupt(
        experiment,
        *fit,
        appears="stopped/checkpoints/step=4.ckpt",
        then=subprocess.Popen.terminate,
        processes=processes,
    )
    said = re.search(r"laser-lightning: stopped by SIGTERM behind step (\d+), with a checkpoint", stopped.output)
    assert said is not None, stopped.output[-5000:]
    assert 4 <= int(said[1]) < 24
    assert stopped.code == (143 if processes == 1 else 1)  # torchrun has a status of its own

    output = command(experiment, *fit, "--ckpt_path", "last", processes=processes)
    assert "checkpoints/last-stopped.ckpt, the newest complete checkpoint" in output
    last = "checkpoints/step=24.ckpt"
    assert difference(experiment / "whole" / last, experiment / "stopped" / last) == []


def test_slurm_queues_a_warned_job_again(interrupt: Callable[..., Any], experiment: Path) -> None:
    scontrol = experiment / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho $@ > {experiment}/requeued\n")
    scontrol.chmod(0o755)
    stopped = interrupt(
        experiment,
        *("fit", "--config", "run.yaml", "--config", "single.yaml", *LONG, "--run_dir", "run"),
        appears="run/checkpoints/step=4.ckpt",
        then=lambda process: process.send_signal(signal.SIGUSR1),
        processes=1,
        PATH=f"{scontrol.parent}:/usr/bin:/bin",
        SLURM_JOB_ID="77",
        SLURM_JOB_NAME="run",
        SLURM_NTASKS="1",
        SLURM_NTASKS_PER_NODE="1",
        SLURM_NNODES="1",
        SLURM_NODELIST="localhost",
        SLURM_PROCID="0",
        SLURM_LOCALID="0",
        SLURM_NODEID="0",
    )
    assert stopped.code == 128 + signal.SIGUSR1, stopped.output[-5000:]
    assert "stopped by SIGUSR1 behind step" in stopped.output
    assert (experiment / "requeued").read_text() == "requeue 77\n"
    assert (experiment / "run/checkpoints/last-stopped.ckpt").is_file()
