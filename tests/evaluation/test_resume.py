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

import pytest

from laser_lightning.cli.command_line import main

BATCHES = 30


def command(run: str) -> list[str]:
    return ["test", "--config", "run.yaml", "--config", "test.yaml", "--run_dir", run]


def batches(run: Path) -> int:
    """Batches that are there so far."""
    path = run / "kept" / "test" / "sums" / "rank0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return sum(line.endswith(b"\n") and "batch" in json.loads(line) for line in lines)


def metrics(run: Path) -> dict[str, str]:
    """The last row of the metrics, but for the clock's."""
    row = list(csv.DictReader((run / "metrics.csv").open()))[-1]
    return {name: value for name, value in row.items() if "second" not in name}


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_was(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "length_verifier", raising=False)  # of another test's directory
    source = "{class_path: laser_lightning.data.ArithmeticSource, init_args: {split: test, size: 60}}"
    (tmp_path / "test.yaml").write_text(
        f"data: {{test: {{sums: {source}}}, eval_prompts_per_batch: 2}}\nexport: null\n"
    )
    # Only the one that is killed needs a process of its own.
    killed = subprocess.Popen([sys.executable, "-m", "laser_lightning", *command("killed")], stdout=subprocess.DEVNULL)
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
    assert main(command("killed")) == 0
    assert re.search(rf"{there} of {BATCHES} batches of 'sums' were already there", caplog.text)
    assert batches(tmp_path / "killed") == BATCHES

    assert main(command("whole")) == 0
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
