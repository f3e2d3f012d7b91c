"""Starts the processes of a distributed test, with a time limit."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from experiments import ENVIRONMENT, write_experiment
from forked_ranks import run_ranks

from laser_lightning.cli.resume_settings import SAVED_SETTINGS
from laser_lightning.runs.metrics_file import SAVED_METRICS

WORKER = Path(__file__).with_name("worker.py")

BUILD_OPERATORS = """
from laser_lightning.distributed.toolchain import check_cpu_toolchain
check_cpu_toolchain()
from deepspeed.ops.op_builder import CPUAdamBuilder
from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
CPUAdamBuilder().load()
ShareMemCommBuilder().load()
"""


@pytest.fixture(scope="session", autouse=True)
def operators(request: pytest.FixtureRequest) -> None:
    """Compile DeepSpeed's operators, so that no test's time limit pays for it."""
    if any(item.get_closest_marker("distributed") for item in request.session.items):
        subprocess.run([sys.executable, "-c", BUILD_OPERATORS], env=ENVIRONMENT, check=True, timeout=1200)


def start(
    arguments: list[str], processes: int, cwd: Path | None = None, nodes: int = 1, **environment: str
) -> list[subprocess.Popen[str]]:
    """Start Python processes, ``processes`` on each node; one agent for each node."""
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
    return [
        subprocess.Popen(
            command,
            env=ENVIRONMENT | environment,
            cwd=cwd,
            text=True,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(nodes)
    ]


def finish(agents: list[subprocess.Popen[str]], timeout: float) -> list[str]:
    """Wait for the agents, and leave no process behind; what each printed."""
    try:
        return [agent.communicate(timeout=timeout)[0] for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:  # torchrun's workers have sessions of their own: let it end them
                agent.terminate()
                with suppress(subprocess.TimeoutExpired):
                    agent.communicate(timeout=40)
            with suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)


def run(
    arguments: list[str], processes: int, timeout: float, succeeds: bool = True, cwd: Path | None = None, nodes: int = 1
) -> str:
    """Start Python processes (``processes`` on each node), wait, and leave none behind; what they print.

    Those that shall fail, or are on several nodes, are torchrun's; others are only started faster.
    """
    if succeeds and nodes == 1:
        codes, output = run_ranks(arguments, processes, timeout, cwd, ENVIRONMENT)
        assert codes == [0] * processes, output[-20000:]
        return output
    agents = start(arguments, processes, cwd, nodes)
    outputs = finish(agents, timeout)
    for agent, output in zip(agents, outputs, strict=True):
        assert (agent.returncode == 0) == succeeds, output[-20000:]
    return "".join(outputs)


def differences(ours: Any, theirs: Any, where: str) -> list[str]:
    """Where two saved values are not the same, bit for bit."""
    if isinstance(ours, torch.Tensor):
        same = torch.equal(ours.nan_to_num(), theirs.nan_to_num()) and torch.equal(ours.isnan(), theirs.isnan())
        return [] if same else [where]
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return [where]
        return [found for key in ours for found in differences(ours[key], theirs[key], f"{where}/{key}")]
    if isinstance(ours, list | tuple):
        if len(ours) != len(theirs):
            return [where]
        pairs = zip(ours, theirs, strict=True)
        return [found for i, (one, other) in enumerate(pairs) for found in differences(one, other, f"{where}/{i}")]
    if isinstance(ours, int | float | str | None):
        return [] if ours == theirs or ours != ours else [where]
    return []


def saved(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, without Lightning's count of epochs (resumed at the end of one it lags), and paths."""
    files = sorted(path.glob("checkpoint/*.pt")) if path.is_dir() else [path]
    state = {file.name: torch.load(file, weights_only=False, map_location="cpu") for file in files}
    for part in state.values():
        for key in ("loops", "callbacks", "epoch", SAVED_METRICS, SAVED_SETTINGS):
            part.pop(key, None)
    return state if path.is_dir() else state[path.name]


@pytest.fixture(scope="session")
def difference() -> Callable[[Path, Path], list[str]]:
    """``difference(one, other)``: what is not the same in two checkpoints, bit for bit."""
    return lambda one, other: differences(saved(one), saved(other), "")


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """A directory with a small run: ``run.yaml``, which wants a strategy below it, and ``single.yaml`` above it."""
    write_experiment(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """``launch(job, spec, processes=2, nodes=1)`` runs a job of ``worker.py``; what each rank returned."""

    def run_job(job: str, spec: Any, processes: int = 2, nodes: int = 1, timeout: float = 240) -> list[Any]:
        out = tmp_path_factory.mktemp(job)
        (out / "spec.json").write_text(json.dumps(spec))
        arguments = [str(WORKER), job, str(out / "spec.json"), str(out), str(timeout)]
        run(arguments, processes, timeout + 30, nodes=nodes)
        return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in range(processes * nodes)]

    return run_job


@pytest.fixture(scope="session")
def command() -> Callable[..., str]:
    """``command(directory, *arguments, processes=2, nodes=1, succeeds=True)`` runs the command line; what it prints."""

    def run_command(directory: Path, *arguments: str, processes: int = 2, nodes: int = 1, succeeds: bool = True) -> str:
        return run(["-m", "laser_lightning", *arguments], processes, 200, succeeds, directory, nodes)

    return run_command


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., str]) -> Path:
    """The last checkpoint of a run of 24 steps on one process that nothing disturbed."""
    directory = tmp_path_factory.mktemp("whole")
    write_experiment(directory)
    overlays = ["--config", "run.yaml", "--config", "single.yaml", "--trainer.max_steps", "24"]
    command(directory, "fit", *overlays, "--run_dir", "whole", processes=1)
    return directory / "whole/checkpoints/step=24.ckpt"


class Interrupted(NamedTuple):
    """How a run ended."""

    code: int
    output: str


@pytest.fixture(scope="session")
def interrupt() -> Callable[..., Interrupted]:
    """Starts the command line, and when a file appears calls a function with the process (torchrun's, if many)."""

    def run_until(
        directory: Path,
        *arguments: str,
        appears: str,
        then: Callable[[subprocess.Popen[str]], None],
        processes: int = 2,
        timeout: float = 200,
        **environment: str,
    ) -> Interrupted:
        agents = start(["-m", "laser_lightning", *arguments], processes, directory, **environment)
        deadline = time.monotonic() + timeout
        try:
            while not (directory / appears).exists():
                assert agents[0].poll() is None, agents[0].communicate()[0][-20000:]
                assert time.monotonic() < deadline, f"{appears} did not appear"
                time.sleep(0.01)
            then(agents[0])
        finally:
            output = finish(agents, timeout)[0]
        return Interrupted(agents[0].returncode, output)

    return run_until
