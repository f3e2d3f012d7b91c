"""Weights in bfloat16 learn under every strategy, through copies of ours (DDP) or of DeepSpeed's (ZeRO)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.distributed

STEPS = 4


def test_small_steps_of_bfloat16_weights_add_up(
    launch: Callable[..., list[Any]],
    save_model: Callable[..., Path],
    tiny_config: Callable[..., Any],
    tmp_path: Path,
) -> None:
    shared = {
        "policy": str(save_model(tmp_path / "policy", tiny_config(initializer_range=0.02))),
        "directory": str(tmp_path),
        "algorithm": "adamw",
        "learning_rate": 1e-6,
        "eps": 1e-8,
        "max_grad_norm": 1.0,
        "precision": "bf16-true",
        "kinds": [["mixed", "mixed"]] * STEPS,
        "max_steps": STEPS,
    }
    two = str(tmp_path / "two.ckpt")
    specs = [
        {**shared, "strategy": "zero1"},
        {**shared, "strategy": "zero2"},
        {**shared, "strategy": "zero3", "precision": "bf16-mixed", "dtype": "bfloat16"},
        {**shared, "strategy": "ddp"},
        {**shared, "strategy": "ddp", "max_steps": 2, "save": two},
        {**shared, "strategy": "ddp", "first_round": 2, "resume": two},
    ]
    runs = launch("several", specs)[0]
    shares = [share_changed(run[0]["weights"], run[-1]["weights"]) for run in runs[:4]]
    # Between the first and the fourth step a copy moves by 3e-6. A weight between 2**-6 and 2**-5 (0.0156 and 0.031)
    # has its neighbours 1.2e-4 away and so changes in 1 of 40 cases, smaller ones in proportion more often. Without
    # copies only weights below 3e-4 change: P(|x| < 3e-4) = 1.2% at a standard deviation of 0.02.
    assert shares[3] > 0.02
    for share in shares[:3]:
        assert share == pytest.approx(shares[3], rel=0.02)

    whole, resumed = runs[3][-1]["weights"], runs[5][-1]["weights"]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def share_changed(first: dict[str, torch.Tensor], last: dict[str, torch.Tensor]) -> float:
    changed = sum(int((first[name] != last[name]).sum()) for name in first)
    return changed / sum(value.numel() for value in first.values())
