"""Metrics on two processes are those of one process that sees all solutions, in float32 and in bfloat16."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.distributed

WITHIN = tuple(f"self_verification/{name}" for name in ("auroc_within", "auroc_within_mean", "mixed_problems"))
COUNTED_ONCE = ("pass@1", "pass@4", "maj@4", "weighted_maj@4", "best_of@4", *WITHIN)
"""Metrics of groups; a solution that is on two ranks counts once in them, and twice in the others."""

# What depends on the model's own passes, whose rounding depends on the micro-batches (and in bfloat16 is coarse).
OF_PASSES = ("train/loss", "train/policy_loss", "train/self_reward_loss", "train/gradient_norm", "train/mismatch")


def compared(values: dict[str, float]) -> dict[str, float]:
    """What depends on the solutions alone."""
    return {
        name: value
        for name, value in values.items()
        if "second" not in name
        and name != "tokens/s"
        and not name.startswith(OF_PASSES)
        and (not name.startswith("val/repeated/") or name.removeprefix("val/repeated/") in COUNTED_ONCE)
    }


@pytest.fixture(scope="module")
def spec(policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"policy": str(policy_dir), "directory": str(tmp_path_factory.mktemp("run"))}


@pytest.fixture(scope="module")
def alone(spec: dict[str, Any], launch: Callable[..., list[Any]]) -> Any:
    """What one process logs in float32."""
    return launch("metrics", {**spec, "strategy": "single", "precision": "32-true"}, processes=1)[0]


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_log_what_one_logs(
    strategy: str, precision: str, launch: Callable[..., list[Any]], spec: dict[str, Any], alone: Any
) -> None:
    ranks = launch("metrics", {**spec, "strategy": strategy, "precision": precision})
    check(ranks, alone, precision)


def test_one_process_logs_the_same_in_bfloat16(
    launch: Callable[..., list[Any]], spec: dict[str, Any], alone: Any
) -> None:
    check(launch("metrics", {**spec, "strategy": "single", "precision": "bf16-true"}, processes=1), alone, "bf16-true")


def check(ranks: list[Any], alone: Any, precision: str) -> None:
    evaluation, first, _ = alone["told"]
    assert [part["step"] for part in alone["told"]] == [256, 257, 258]
    assert 0 < evaluation["val/uneven/pass@1"] < 1
    assert 0 < first["train/self_reward/f1"] < 1
    assert 0 < first["train/self_reward/auroc_within"] < 1
    assert evaluation["val/uneven/self_verification/mixed_problems"] > 1
    for rank in ranks:
        for ours, theirs in zip(rank["told"], alone["told"], strict=True):
            assert compared(ours) == pytest.approx(compared(theirs), abs=1e-6, nan_ok=True)
            if precision == "32-true" and "train/loss" in theirs:
                passes = {name: value for name, value in theirs.items() if name.startswith(OF_PASSES)}
                assert {name: ours[name] for name in passes} == pytest.approx(passes, abs=1e-5)
        assert compared(rank["logged"]) == pytest.approx(compared(alone["logged"]), abs=1e-6, nan_ok=True)
        assert not [text for text in rank["warnings"] if "sync_dist" in text]
