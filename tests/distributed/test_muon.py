"""Muon under DDP: two processes take the steps of one, and stay the same bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.distributed

RATE, STEPS = 1e-3, 3


def test_two_processes_take_the_steps_of_one(
    launch: Callable[..., list[Any]], policy_dir: Path, tmp_path: Path
) -> None:
    spec = {
        "policy": str(policy_dir),
        "directory": str(tmp_path),
        "algorithm": {"class_path": "laser_lightning.MuonWithAdamW", "init_args": {"eps": 0.1}},
        "eps": 1e-8,
        "learning_rate": RATE,
        "max_grad_norm": 1.0,
        "max_steps": STEPS,
        "kinds": [["mixed", "mixed"], ["mixed", "truncated"], ["correct", "mixed"]],
        "budgets": [10_000, 54, 72],
    }
    alone = launch("several", [{**spec, "strategy": "single"}], processes=1)[0][0]
    first, second = (rank[0] for rank in launch("several", [{**spec, "strategy": "ddp"}]))
    for number, expected in enumerate(alone):
        ours, theirs = first[number]["weights"], second[number]["weights"]
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        # The root mean square of a step is at most about 0.2 * RATE, and less where the gradient of a few tokens has a
        # low rank. Muon's iteration is in bfloat16, where a rounding of gradients may become one of 0.4%.
        for name, value in expected["weights"].items():
            assert float((ours[name] - value).square().mean().sqrt()) < 0.02 * 0.2 * RATE, (name, number)
            if number and name.endswith("proj.weight"):
                moved = value - alone[number - 1]["weights"][name]
                assert 0.05 * RATE < float(moved.square().mean().sqrt()) < 0.25 * RATE, (name, number)
