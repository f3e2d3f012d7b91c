"""Starts the processes of a distributed test, with a time limit."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """``launch(job, spec, processes=2, timeout=240)`` runs a job of ``worker.py``; what each rank returned."""

    def start(job: str, spec: Any, processes: int = 2, timeout: float = 240) -> list[Any]:
        out = tmp_path_factory.mktemp(job)
        (out / "spec.json").write_text(json.dumps(spec))
        run = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        arguments = [job, str(out / "spec.json"), str(out), str(timeout)]
        command = [sys.executable, *(run if processes > 1 else []), str(WORKER), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout + 30)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in range(processes)]

    return start
