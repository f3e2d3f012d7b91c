"""Judging updates on two processes are those of one, under every strategy, and resume bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.distributed


def judging(hold: str | None = "SampledCrossEntropy", **options: Any) -> dict[str, Any]:
    part = None if hold is None else {"class_path": f"laser_lightning.objective.judging.{hold}", "init_args": {}}
    arguments = {"buffer_rounds": 3, "hold": part, "learning_rate": 0.1, **options}
    return {"class_path": "laser_lightning.objective.judging.JudgingSettings", "init_args": arguments}


@pytest.fixture(scope="module")
def spec(policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = str(tmp_path_factory.mktemp("run"))
    return {"policy": str(policy_dir), "directory": directory, "kinds": [], "max_grad_norm": 1.0, "max_steps": 3}


@pytest.fixture(scope="module")
def specs(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        # A draw of the groups of all ranks, several micro-batches, and a rate of its own.
        {**spec, "judging": judging(groups_per_update=3), "budgets": [100]},
        # One group: the other rank has nothing but passes to fill. AdamW, whose moments are shared.
        {**spec, "judging": judging("KLHold", groups_per_update=1, learning_rate=0.02), "algorithm": "adamw"},
        {**spec, "judging": judging(updates=1), "lora": {"rank": 4, "alpha": 8.0}},
    ]


@pytest.fixture(scope="module")
def alone(specs: list[dict[str, Any]], launch: Callable[..., list[Any]]) -> list[Any]:
    found: list[Any] = launch("several", [{**spec, "strategy": "single"} for spec in specs], processes=1)[0]
    return found


def reported(rollout: dict[str, Any]) -> dict[str, float]:
    """What does not depend on the clock."""
    clock = ("_seconds", "_per_second", "tokens/s")
    return {name: value for name, value in rollout["metrics"].items() if not name.endswith(clock)}


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3"])
def test_two_processes_take_the_updates_of_one(
    strategy: str, launch: Callable[..., list[Any]], specs: list[dict[str, Any]], alone: list[Any]
) -> None:
    for rank in launch("several", [{**spec, "strategy": strategy} for spec in specs]):
        for number, (ours, theirs) in enumerate(zip(rank, alone, strict=True)):
            assert [rollout["step"] for rollout in ours] == [1, 2, 3]
            for one, other in zip(ours, theirs, strict=True):
                where = (strategy, number, one["step"])
                assert other["metrics"]["train/judging/updates"] == (1 if number == 2 else 2)
                assert one["weights"].keys() == other["weights"].keys()
                for name, weight in one["weights"].items():
                    assert (weight - other["weights"][name]).abs().max() < 2e-6, (where, name)
                assert reported(one) == pytest.approx(reported(other), rel=1e-4, abs=1e-5), where


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_a_resumed_run_replays_the_same(
    strategy: str,
    tmp_path: Path,
    launch: Callable[..., list[Any]],
    spec: dict[str, Any],
    difference: Callable[[Path, Path], list[str]],
) -> None:
    run = {**spec, "strategy": strategy, "judging": judging(groups_per_update=3), "algorithm": "adamw"}
    saves = {name: str(tmp_path / f"{name}.ckpt") for name in ("whole", "first", "rest")}
    whole = {**run, "max_steps": 4, "save": saves["whole"]}
    first = {**run, "max_steps": 2, "save": saves["first"]}
    rest = {**run, "max_steps": 4, "resume": saves["first"], "save": saves["rest"]}
    for history, _, resumed in launch("several", [whole, first, rest]):
        for ours, theirs in zip(resumed, history[2:], strict=True):
            assert all(torch.equal(value, theirs["weights"][name]) for name, value in ours["weights"].items())
            assert reported(ours) == reported(theirs)
    assert difference(Path(saves["whole"]), Path(saves["rest"])) == []


def test_one_process_goes_on_with_the_solutions_of_two(
    tmp_path: Path, launch: Callable[..., list[Any]], spec: dict[str, Any]
) -> None:
    # The moments, in which its updates share, go with them.
    run = {**spec, "judging": judging(groups_per_update=3, learning_rate=0.02), "algorithm": "adamw"}
    saved = str(tmp_path / "two.ckpt")
    launch("several", [{**run, "strategy": "zero2", "max_steps": 2, "save": saved}])
    ((whole,),) = launch("several", [{**run, "strategy": "single", "max_steps": 3}], processes=1)
    ((last,),) = launch("several", [{**run, "strategy": "single", "max_steps": 3, "resume": saved}], processes=1)
    (ours,) = last
    for name, weight in whole[-1]["weights"].items():
        assert (ours["weights"][name] - weight).abs().max() < 2e-6, name
    name = "train/judging/auroc_within"
    assert ours["metrics"][name] == pytest.approx(whole[-1]["metrics"][name])
