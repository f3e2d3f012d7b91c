"""One optimizer step on two processes is the step of one process on the concatenated data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.distributed

MIXED, TRUNCATED, CORRECT, SILENT = "mixed", "truncated", "correct", "silent"


def largest_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3"])
def test_two_processes_take_the_step_of_one(
    strategy: str, launch: Callable[..., list[Any]], policy_dir: Path, tmp_path: Path
) -> None:
    shared = {"policy": str(policy_dir), "directory": str(tmp_path), "max_grad_norm": 1.0}
    whole = {
        **shared,
        "kl_coef": 0.2,
        "max_steps": 4,
        "kinds": [[MIXED, MIXED], [MIXED, TRUNCATED], [CORRECT, MIXED], [MIXED, CORRECT]],
        "budgets": [10_000, 54, 72, 36],
    }
    silent = {
        **shared,
        "kl_coef": 0.0,
        "max_grad_norm": None,
        "max_steps": 3,
        "kinds": [[MIXED, SILENT], [SILENT, MIXED], [MIXED, MIXED]],
        "budgets": [40, 40, 40],
    }
    specs = [whole, silent]
    one = launch("several", [{**spec, "strategy": "single"} for spec in specs], processes=1)[0]
    two = launch("several", [{**spec, "strategy": strategy} for spec in specs])

    for rank in two:
        for run, alone in zip(rank, one, strict=True):
            assert len(run) == len(alone)
            for ours, theirs in zip(run, alone, strict=True):
                print(
                    strategy, ours["step"], ours["passes"], theirs["passes"],
                    largest_difference(ours["weights"], theirs["weights"]),
                    ours["train/gradient_norm"] - theirs["train/gradient_norm"],theirs["train/gradient_norm"],
                    theirs["train/kl"], theirs["train/mixed_groups"],  theirs["train/self_reward_loss"],
                )
