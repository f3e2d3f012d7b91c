"""Two nodes of one process each (two torchrun agents on loopback), and the weights that a run starts from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.distributed


def test_two_nodes_take_the_steps_of_one_process(
    launch: Callable[..., list[Any]], policy_dir: Path, tmp_path: Path
) -> None:
    spec = {
        "policy": str(policy_dir),
        "directory": str(tmp_path),
        "kl_coef": 0.2,
        "max_grad_norm": 1.0,
        "max_steps": 2,
        "kinds": [["mixed", "mixed"], ["mixed", "truncated"]],
        "budgets": [10_000, 54],
    }
    alone = launch("several", [{**spec, "strategy": "single"}], processes=1)[0][0]
    nodes = launch("several", [{**spec, "strategy": name} for name in ("zero2", "zero3")], processes=1, nodes=2)
    for node in nodes:
        for run in node:
            for ours, theirs in zip(run, alone, strict=True):
                for name, weight in theirs["weights"].items():
                    assert float((ours["weights"][name] - weight).abs().max()) < 1e-6, name


def test_weights_at_the_start(launch: Callable[..., list[Any]], policy_dir: Path, tmp_path: Path) -> None:
    shared = {"policy": str(policy_dir), "directory": str(tmp_path), "max_grad_norm": 1.0}
    specs = [
        {**shared, "strategy": strategy, "random_init": random}
        for random in (False, True)
        for strategy in ("ddp", "zero3")
    ]
    first, second = launch("initial", specs)
    loaded, loaded_shards, random, random_shards = first
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(loaded[name], loaded_shards[name]) for name in loaded)
    # Drawn in another order, so compared by their spread: 0.3 for matrices (of 1,024 numbers or more: within 0.03),
    # 1 for the weights of norms, 0 for biases.
    for name, weight in random_shards.items():
        assert weight.shape == random[name].shape
        if weight.ndim == 2:
            assert float(weight.std()) == pytest.approx(0.3, abs=0.03), name
        else:
            assert torch.equal(weight, random[name]), name
