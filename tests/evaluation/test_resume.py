"""An evaluation killed with SIGKILL and started again samples only what is missing, and ends with the same metrics."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

BATCHES = 30


def start(directory: Path, run: str, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "laser_lightning", "test", "--config", "run.yaml", "--config", "test.yaml"]
    return subprocess.Popen(
        [*command, "--run_dir", run, *options], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(process: subprocess.Popen[bytes]) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output.decode()[-3000:]
    return output.decode()


def batches(run: Path) -> int:
    """Batches that are there so far."""
    path = run / "kept" / "test" / "sums" / "rank0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return sum(line.endswith(b"\n") and "batch" in json.loads(line) for line in lines)


def metrics(run: Path) -> dict[str, str]:
    """The last row of the metrics, but for the clock's."""
    row = list(csv.DictReader((run / "metrics.csv").open()))[-1]
    return {name: value for name, value in row.items() if "second" not in name}


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path: Path, tiny_run: Path) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    source = "{class_path: laser_lightning.data.ArithmeticSource, init_args: {split: test, size: 60}}"
    (tmp_path / "test.yaml").write_text(
        f"data: {{test: {{sums: {source}}}, eval_prompts_per_batch: 2}}\nexport: null\n"
    )
    finish(start(tmp_path, "whole"))

    killed = start(tmp_path, "killed")
    deadline = time.monotonic() + 200
    while batches(tmp_path / "killed") < 3:
        assert killed.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    there = batches(tmp_path / "killed")
    assert 3 <= there < BATCHES
    output = finish(start(tmp_path, "killed"))
    assert re.search(rf"{there} of {BATCHES} batches of 'sums' were already there", output)
    assert batches(tmp_path / "killed") == BATCHES

    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
