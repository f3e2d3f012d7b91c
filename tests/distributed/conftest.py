"""Starts the processes of a distributed test, with a time limit."""

import json
import os
import signal
import socket
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


def run(
    arguments: list[str], processes: int, timeout: float, succeeds: bool = True, cwd: Path | None = None, nodes: int = 1
) -> str:
    """Start Python processes (``processes`` on each node), wait, and leave none behind; what they print."""
    many = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    if nodes == 1:
        many += ["--standalone"]
    else:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        many += ["--nnodes", str(nodes), "--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}"]
        many += ["--rdzv_id", "test"]
    command = [sys.executable, *(many if processes * nodes > 1 else []), *arguments]
    agents = [
        subprocess.Popen(
            command,
            env=ENVIRONMENT,
            cwd=cwd,
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(nodes)
    ]
    try:
        outputs = [agent.communicate(timeout=timeout)[0] for agent in agents]
    finally:
        for agent in agents:
            with suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)
    for agent, output in zip(agents, outputs, strict=True):
        assert (agent.returncode == 0) == succeeds, output[-20000:]
    return "".join(outputs)


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """``launch(job, spec, processes=2, nodes=1)`` runs a job of ``worker.py``; what each rank returned."""

    def start(job: str, spec: Any, processes: int = 2, nodes: int = 1, timeout: float = 240) -> list[Any]:
        out = tmp_path_factory.mktemp(job)
        (out / "spec.json").write_text(json.dumps(spec))
        arguments = [str(WORKER), job, str(out / "spec.json"), str(out), str(timeout)]
        run(arguments, processes, timeout + 30, nodes=nodes)
        return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in range(processes * nodes)]

    return start


@pytest.fixture(scope="session")
def command() -> Callable[..., str]:
    """``command(directory, *arguments, processes=2, succeeds=True)`` runs the command line; what it prints."""

    def start(directory: Path, *arguments: str, processes: int = 2, succeeds: bool = True) -> str:
        return run(["-m", "laser_lightning", *arguments], processes, 200, succeeds, directory)

    return start
