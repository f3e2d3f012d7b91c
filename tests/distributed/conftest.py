"""Starts the processes of a distributed test, with a time limit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("worker.py")


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}


def run(arguments: list[str], processes: int, timeout: float, succeeds: bool = True, cwd: Path | None = None) -> str:
    """Start Python processes, wait, and leave none behind; what they print."""
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(many if processes > 1 else []), *arguments]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, cwd=cwd, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode == 0) == succeeds, output[-20000:]
    return output


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """``launch(job, spec, processes=2, timeout=240)`` runs a job of ``worker.py``; what each rank returned."""

    def start(job: str, spec: Any, processes: int = 2, timeout: float = 240) -> list[Any]:
        out = tmp_path_factory.mktemp(job)
        (out / "spec.json").write_text(json.dumps(spec))
        run([str(WORKER), job, str(out / "spec.json"), str(out), str(timeout)], processes, timeout + 30)
        return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in range(processes)]

    return start


@pytest.fixture(scope="session")
def command() -> Callable[..., str]:
    """``command(directory, *arguments, processes=2, succeeds=True)`` runs the command line; what it prints."""

    def start(directory: Path, *arguments: str, processes: int = 2, succeeds: bool = True) -> str:
        return run(["-m", "laser_lightning", *arguments], processes, 200, succeeds, directory)

    return start
