"""An engine with a copy of the weights gets them a layer at a time, and no rank ever holds the model whole for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning.policy.weight_stream import layers_of

pytestmark = pytest.mark.distributed

MIXED = "mixed"


@pytest.fixture
def spec(policy_dir: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "policy": str(policy_dir),
        "directory": str(tmp_path),
        "max_grad_norm": 1.0,
        "max_steps": 3,
        "kinds": [[MIXED, MIXED]] * 3,
        "budgets": [10_000, 54, 72],
    }


def layer_bytes(weights: dict[str, torch.Tensor]) -> list[int]:
    """Bytes of each layer's weights."""
    return [sum(weights[name].nbytes for name in names) for names in layers_of(weights)]


@pytest.mark.parametrize("lora", [False, True])
def test_the_most_that_is_gathered_at_once_is_a_layer(
    lora: bool, launch: Callable[..., list[Any]], spec: dict[str, Any]
) -> None:
    if lora:
        spec |= {"lora": {"rank": 4, "alpha": 8.0}}
    copying = {**spec, "strategy": "zero3", "copies": True}
    alone = launch("several", [{**spec, "strategy": "single", "copies": True}], processes=1)[0][0]
    ranks = [rank[0] for rank in launch("several", [copying])]
    layers = layer_bytes(alone[-1]["weights"])
    for run in ranks:
        assert [taken["drawing"] for taken in run[-1]["taken"]] == [0, 0, 0]
        for ours, theirs in zip(run, alone, strict=True):
            for name, value in theirs["weights"].items():
                torch.testing.assert_close(ours["weights"][name], value, rtol=0, atol=1e-6)
    # Rank 1 stops behind two tensors; what rank 0 takes is the whole model, whatever rank 1 does.
    taken = ranks[0][-1]["taken"]
    assert [one["most"] for one in taken] == [max(layers)] * 3
    assert max(layers) < sum(layers) / 2
    for ours, theirs in zip(taken, alone[-1]["taken"], strict=True):
        assert list(ours["weights"]) == list(theirs["weights"])
        for name, value in theirs["weights"].items():
            torch.testing.assert_close(ours["weights"][name], value, rtol=0, atol=1e-6)
    if not lora:  # the second hand-over is of the weights behind the first step, bit for bit
        behind = ranks[0][0]["weights"]
        assert all(torch.equal(taken[1]["weights"][name], value) for name, value in behind.items())


def test_ranks_without_problems_take_part(launch: Callable[..., list[Any]], spec: dict[str, Any]) -> None:
    # The evaluation set of one problem has none for the second rank.
    spec |= {"strategy": "zero3", "precision": "32-true"}
    with_whole, ranks = launch("metrics", spec)[0], launch("metrics", {**spec, "copies": True})
    evaluated = {name for name in with_whole["logged"] if name.startswith("val/")}
    evaluated -= {name for name in evaluated if "second" in name}
    assert len(evaluated) > 10
    for rank in ranks:
        for name in evaluated:
            assert rank["logged"][name] == pytest.approx(with_whole["logged"][name], abs=1e-6, nan_ok=True), name
        # Two steps, and the evaluation before the first one is of its weights.
        assert [one["drawing"] for one in rank["taken"]] == [0, 0]
