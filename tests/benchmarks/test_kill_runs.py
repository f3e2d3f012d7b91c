"""Killed runs, as the benchmark kills them."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/kill_runs.py"


@pytest.mark.slow
def test_a_run_whose_rounds_are_drawn_ahead_and_that_is_killed() -> None:
    """It exits with 1 if a bit differs."""
    words = [sys.executable, str(SCRIPT), "--kills", "1", "--strategies", "single", "--ahead"]
    run = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "single: 1 kills, and at step 8 every bit is the same" in run.stdout
