"""A run that is told to stop saves behind its step, leaves, and goes on bit for bit."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).parents[2] / "docs/laser.sbatch"
LONG = ["--trainer.max_steps", "24"]


@pytest.mark.parametrize(("processes", "overlay"), [(1, "single.yaml"), (2, "strategy/zero2")])
def test_sigterm(
    processes: int,
    overlay: str,
    command: Callable[..., str],
    interrupt: Callable[..., Any],
    experiment: Path,
    difference: Callable[[Path, Path], list[str]],
    request: pytest.FixtureRequest,
) -> None:
    fit = ["fit", "--config", "run.yaml", "--config", overlay, *LONG]
    if processes > 1:
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
    assert "Restored all states from the checkpoint" in output
    whole = experiment / "whole/checkpoints/step=24.ckpt" if processes > 1 else request.getfixturevalue("whole_run")
    assert difference(whole, experiment / "stopped/checkpoints/step=24.ckpt") == []


SRUN = """#!/bin/bash
# Stands in for srun: two nodes with a task each.
shift  # --kill-on-bad-exit=1
for task in 0 1; do
    SLURM_NTASKS=2 SLURM_PROCID=$task SLURM_NODEID=$task SLURM_LOCALID=0 "$@" &
    echo $! >> tasks
done
wait -n; first=$?
wait -n; second=$?
exit $(( first > second ? first : second ))
"""


def test_the_script_for_slurm_goes_on_under_ddp_where_it_was_warned(
    experiment: Path, difference: Callable[[Path, Path], list[str]], command: Callable[..., str]
) -> None:
    (experiment / "ddp.yaml").write_text("trainer: {strategy: laser_ddp}")
    configs = ["--config", "run.yaml", "--config", "ddp.yaml", *LONG]
    two = ["--trainer.num_nodes", "2", "--trainer.devices", "1"]
    command(experiment, "fit", *configs, *two, "--run_dir", "whole", processes=1, nodes=2)

    for name, text in {"srun": SRUN, "scontrol": "#!/bin/sh\necho $@ >> requeued\n"}.items():
        (experiment / "bin").mkdir(exist_ok=True)
        (experiment / "bin" / name).write_text(text)
        (experiment / "bin" / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "laser", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1"}
    path = f"{experiment / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {**os.environ, **job, "SLURM_NODELIST": "localhost", "PATH": path, "SLURM_CPUS_PER_TASK": "1"}
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        environment["MASTER_PORT"] = str(sock.getsockname()[1])

    def submit() -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *configs, "--run_dir", "run"],
            cwd=experiment,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    try:
        first = submit()
        while not (experiment / "run/checkpoints/step=4.ckpt").exists():
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.01)
        for task in (experiment / "tasks").read_text().split():
            os.kill(int(task), signal.SIGUSR1)
        output = first.communicate(timeout=240)[0]
        assert first.returncode == 128 + signal.SIGUSR1, output
        assert "There is no complete checkpoint to resume from" in output
        assert output.count("laser-lightning: stopped by SIGUSR1 behind step") == 1
        assert (experiment / "requeued").read_text() == "requeue 77\n"
    finally:
        for task in (experiment / "tasks").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(task), signal.SIGKILL)

    second = submit()
    output = second.communicate(timeout=240)[0]
    assert second.returncode == 0, output
    assert "last-stopped.ckpt, the newest complete checkpoint" in output
    last = "checkpoints/step=24.ckpt"
    assert difference(experiment / "whole" / last, experiment / "run" / last) == []
