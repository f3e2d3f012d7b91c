"""One optimizer step on two processes is the step of one process on the concatenated data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.distributed

MIXED, TRUNCATED, CORRECT, SILENT = "mixed", "truncated", "correct", "silent"
RUNS: dict[str, dict[str, Any]] = {
    # Policy loss, self-rewarding loss, mixed advantages, KL; a rank whose solutions are all truncated or all correct.
    # The budgets make 1, 3, 2 and 4 micro-batches on two ranks. A rollout fails once, with the weights gathered.
    # Each solution computes its prompt itself.
    "whole objective": {
        "shared_prompts": "never",
        "kl_coef": 0.2,
        "max_grad_norm": 1.0,
        "max_steps": 4,
        "kinds": [[MIXED, MIXED], [MIXED, TRUNCATED], [CORRECT, MIXED], [MIXED, CORRECT]],
        "budgets": [10_000, 54, 72, 36],
        "fails": [2],
    },
    # A rank on which no solution has a gradient, and no limit of the gradient norm.
    "silent rank": {
        "max_grad_norm": None,
        "max_steps": 3,
        "kinds": [[MIXED, SILENT], [SILENT, MIXED], [MIXED, MIXED]],
        "budgets": [40, 40, 40],
    },
    # Two optimizer steps per round, with old log-probs, exact scores, importance weights, prompts that are computed
    # once for as many solutions as there is room for, and everything recomputed in the backward pass.
    "reused rollouts": {
        "shared_prompts": "always",
        "importance": "token",
        "reference": "exact",
        "epochs": 2,
        "gradient_checkpointing": True,
        "chunk_size": 16,
        "max_grad_norm": 1.0,
        "max_steps": 4,
        "kinds": [[MIXED, MIXED], [MIXED, CORRECT]],
        "budgets": [50, 60],
    },
    # Adapters beside frozen weights, the KL term against the policy without them, and another number of passes on each
    # rank between two uses of both.
    "lora": {
        "shared_prompts": "always",
        "lora": {"rank": 4, "alpha": 8.0},
        "kl_coef": 0.2,
        "gradient_checkpointing": True,
        "chunk_size": 16,
        "max_grad_norm": 1.0,
        "max_steps": 4,
        "kinds": [[MIXED, MIXED], [MIXED, TRUNCATED], [CORRECT, MIXED], [MIXED, CORRECT]],
        "budgets": [10_000, 54, 72, 36],
        "fails": [2],
    },
    # Advantages normalized over the solutions of all ranks.
    "batch statistics": {
        "batch_normalized": True,
        "max_grad_norm": 1.0,
        "max_steps": 2,
        "kinds": [[MIXED, CORRECT], [TRUNCATED, MIXED]],
        "budgets": [50, 60],
    },
    # What is not finite on the last rank is skipped by all, and leaves AdamW's state as it is.
    "broken rank": {
        "algorithm": "adamw",
        "kl_coef": 0.2,
        "max_grad_norm": 1.0,
        "max_steps": 3,
        "kinds": [[MIXED, MIXED]] * 5,
        "budgets": [50] * 5,
        "broken": {1: "loss", 3: "gradient"},
    },
}


def largest_difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.fixture(scope="module")
def specs(policy_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    shared = {"policy": str(policy_dir), "directory": str(tmp_path_factory.mktemp("run"))}
    return [{**shared, **run} for run in RUNS.values()]


@pytest.fixture(scope="module")
def alone(specs: list[dict[str, Any]], launch: Callable[..., list[Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs on one process."""
    result = launch("several", [{**spec, "strategy": "single"} for spec in specs], processes=1)[0]
    return dict(zip(RUNS, result, strict=True))


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3"])
def test_two_processes_take_the_steps_of_one(
    strategy: str, launch: Callable[..., list[Any]], specs: list[dict[str, Any]], alone: dict[str, list[dict[str, Any]]]
) -> None:
    ranks = launch("several", [{**spec, "strategy": strategy} for spec in specs])
    for rank in ranks:
        for (name, expected), run in zip(alone.items(), rank, strict=True):
            assert [rollout["step"] for rollout in run] == [rollout["step"] for rollout in expected], name
            assert run[-1]["step"] == RUNS[name]["max_steps"]
            for number, (ours, theirs) in enumerate(zip(run, expected, strict=True)):
                where = (strategy, name, number)
                assert largest_difference(ours["weights"], theirs["weights"]) < 1e-6, where
                assert reported(ours) == pytest.approx(reported(theirs), rel=1e-4, abs=1e-5), where
            held = {rollout["held_parameters"] for rollout in run}
            assert held == ({0} if strategy == "zero3" else {rollout["held_parameters"] for rollout in expected})
    assert [rollout["passes"] for rollout in ranks[0][0]] == [1, 3, 2, 4]
    broken = ranks[0][list(RUNS).index("broken rank")]
    assert [rollout["step"] for rollout in broken] == [1, 1, 2, 2, 3]
    for before, after in ((0, 1), (2, 3)):
        assert largest_difference(broken[before]["weights"], broken[after]["weights"]) == 0
        assert largest_difference(broken[after]["weights"], broken[after + 1]["weights"]) > 1e-3


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_a_head_with_parameters_takes_the_steps_of_one_process(
    strategy: str, launch: Callable[..., list[Any]], specs: list[dict[str, Any]]
) -> None:
    # A rank without a finished solution has no gradient of the head; the budgets make several micro-batches.
    own = {"probe": True, "max_grad_norm": 1.0, "max_steps": 3, "budgets": [10_000, 40, 60]}
    spec = specs[0] | own | {"kinds": [[MIXED, MIXED], [MIXED, TRUNCATED], [SILENT, MIXED]], "fails": []}
    ((expected,),) = launch("several", [{**spec, "strategy": "single"}], processes=1)
    for (run,) in launch("several", [{**spec, "strategy": strategy}]):
        for ours, theirs in zip(run, expected, strict=True):
            assert "linear.weight" in ours["weights"]
            assert largest_difference(ours["weights"], theirs["weights"]) < 1e-6
    for before, after in ((0, 1), (1, 2)):
        moved = expected[after]["weights"]["linear.weight"] - expected[before]["weights"]["linear.weight"]
        assert moved.abs().max() > 1e-3


def test_parameters_that_a_rank_does_not_reach(launch: Callable[..., list[Any]], specs: list[dict[str, Any]]) -> None:
    # Each solution visits one of three experts, and none the fourth; with budgets of one solution or two, the last
    # micro-batch of a rank reaches one or two experts, and other ranks and micro-batches have reached others.
    own = {"algorithm": "adamw", "experts": 4, "max_steps": 3, "max_grad_norm": 1.0, "budgets": [10_000, 20, 36]}
    spec = specs[0] | own | {"kinds": [[MIXED, MIXED], [MIXED, TRUNCATED], [MIXED, MIXED]], "fails": []}
    ((expected,),) = launch("several", [{**spec, "strategy": "single"}], processes=1)
    for (run,) in launch("several", [{**spec, "strategy": "ddp"}]):
        for ours, theirs in zip(run, expected, strict=True):
            assert largest_difference(ours["weights"], theirs["weights"]) < 1e-6
    experts = [float(expected[-1]["weights"][f"experts.{number}"]) for number in range(4)]
    # AdamW would decay a matrix with a gradient of 0.
    assert [value == 0.5 for value in experts] == [False, False, False, True]


def test_a_head_with_parameters_is_refused_where_they_would_be_sharded(
    launch: Callable[..., list[Any]], specs: list[dict[str, Any]]
) -> None:
    spec = specs[0] | {"probe": True, "strategy": "zero3", "kinds": [[MIXED, MIXED]], "budgets": [100], "max_steps": 1}
    with pytest.raises(AssertionError, match="Probe, has parameters of its own, which ZeRO-3 would shard"):
        launch("several", [spec])


def test_steps_in_host_memory_are_those_of_one_process(
    launch: Callable[..., list[Any]], specs: list[dict[str, Any]], alone: dict[str, list[dict[str, Any]]]
) -> None:
    name = "broken rank"
    spec = specs[list(RUNS).index(name)]
    for rank in launch("several", [{**spec, "strategy": "zero3_offload"}]):
        for ours, theirs in zip(rank[0], alone[name], strict=True):
            assert ours["step"] == theirs["step"]
            assert largest_difference(ours["weights"], theirs["weights"]) < 1e-6


def reported(rollout: dict[str, Any]) -> dict[str, float]:
    """What does not depend on the clock."""
    return {name: value for name, value in rollout["metrics"].items() if "second" not in name and "/s" not in name}


@pytest.mark.parametrize("strategy", ["ddp", "zero3"])
def test_a_teacher_is_asked_on_every_rank(
    strategy: str, launch: Callable[..., list[Any]], specs: list[dict[str, Any]]
) -> None:
    # Solutions are dealt out anew for the update, and what the teacher says of them goes along.
    own = {"teacher": True, "kl_coef": 0.0, "max_steps": 3, "budgets": [10_000, 40, 60], "fails": []}
    spec = specs[0] | own | {"kinds": [[MIXED, MIXED], [MIXED, TRUNCATED], [SILENT, MIXED]]}
    ((expected,),) = launch("several", [{**spec, "strategy": "single"}], processes=1)
    for (run,) in launch("several", [{**spec, "strategy": strategy}]):
        for ours, theirs in zip(run, expected, strict=True):
            assert largest_difference(ours["weights"], theirs["weights"]) < 1e-6
            assert reported(ours) == pytest.approx(reported(theirs), rel=1e-4, abs=1e-5)
    ((without,),) = launch("several", [{**spec, "strategy": "single", "teacher": False}], processes=1)
    assert largest_difference(expected[-1]["weights"], without[-1]["weights"]) > 1e-3
