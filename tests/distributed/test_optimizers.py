"""Optimizers by class path on two processes, which take the steps of one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.distributed

RATE, STEPS = 1e-3, 3


def steps_of(class_path: str, policy: Path, directory: Path, **arguments: Any) -> dict[str, Any]:
    return {
        "policy": str(policy),
        "directory": str(directory),
        "algorithm": {"class_path": class_path, "init_args": arguments},
        "eps": 1e-8,
        "learning_rate": RATE,
        "max_grad_norm": 1.0,
        "max_steps": STEPS,
        "kinds": [["mixed", "mixed"], ["mixed", "truncated"], ["correct", "mixed"]],
        "budgets": [10_000, 54, 72],
    }


def test_muon_under_ddp(launch: Callable[..., list[Any]], policy_dir: Path, tmp_path: Path) -> None:
    spec = steps_of("laser_lightning.MuonWithAdamW", policy_dir, tmp_path, eps=0.1)
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


def test_momentum_under_zero(launch: Callable[..., list[Any]], policy_dir: Path, tmp_path: Path) -> None:
    spec = steps_of("torch.optim.SGD", policy_dir, tmp_path, momentum=0.9, weight_decay=0.1) | {"learning_rate": 0.05}
    alone = launch("several", [{**spec, "strategy": "single"}], processes=1)[0][0]
    for run in launch("several", [{**spec, "strategy": strategy} for strategy in ("zero1", "zero3")])[0]:
        for ours, theirs in zip(run, alone, strict=True):
            for name, value in theirs["weights"].items():
                assert float((ours["weights"][name] - value).abs().max()) < 1e-6, name
