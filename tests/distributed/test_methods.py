"""Advantages that look at all ranks, or remember something, are on two processes those of one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.distributed

ADVANTAGES = "laser_lightning.objective.advantages"


def part(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"{ADVANTAGES}.{name}", "init_args": arguments}


PARTS = [
    {"estimator": part("EMABaseline", decay=0.5)},
    {"estimator": part("LitePPO"), "mixing": part("DiscrepancyWeighting", kappa=1.0, mean_over="round")},
]


def test_two_processes_take_the_steps_of_one(
    policy_dir: Path, tmp_path: Path, launch: Callable[..., list[Any]]
) -> None:
    # Without judging updates, and with their engine, which deals the same solutions to a prompt on every rank.
    spec = {"policy": str(policy_dir), "directory": str(tmp_path), "kinds": [], "judging": None}
    specs = [{**spec, "max_grad_norm": 1.0, "max_steps": 3, "budgets": [100] * 3, **parts} for parts in PARTS]
    (alone,) = launch("several", [{**one, "strategy": "single"} for one in specs], processes=1)
    for ours in launch("several", [{**one, "strategy": "ddp"} for one in specs]):
        for run, expected in zip(ours, alone, strict=True):
            assert [rollout["step"] for rollout in run] == [1, 2, 3]
            for one, other in zip(run, expected, strict=True):
                for name, weight in one["weights"].items():
                    assert (weight - other["weights"][name]).abs().max() < 2e-6, name
    baselines, others = (run[-1]["weights"] for run in alone)
    assert any((baselines[name] - others[name]).abs().max() > 1e-3 for name in baselines)
