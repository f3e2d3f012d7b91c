"""The metrics in two real processes over gloo, against metrics in one process that see all rows."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_lightning.metrics import (
    BestOfK,
    BrierByKind,
    GroupMetric,
    MajorityVote,
    PassAt1,
    PassAt1ByKind,
    PassAtK,
    ResponseStatistics,
    SelfVerification,
    VoteAccuracy,
    WeightedMajorityVote,
    WithinProblems,
    problem_curves,
)

HERE = str(Path(__file__).parent)

WORKER = """
import json, os, sys
import torch
from torch import nn
from torchmetrics import MetricCollection
from laser_lightning.metrics import *

sys.path.insert(0, sys.argv[3])
from vote_rules import MeanOfScores

rank = int(os.environ["RANK"])
torch.distributed.init_process_group("gloo")
rows = torch.load(sys.argv[1])
everything = torch.arange(len(rows["rewards"]))
splits = {
    "every problem on both ranks": [everything[::3], everything[everything % 3 > 0]],
    "one rank without data": [everything, everything[:0]],
}
results = {}
for name, parts in splits.items():
    groups = MetricCollection({
        "pass@1": PassAt1(), "pass@4": PassAtK(4), "maj@8": MajorityVote(8),
        "weighted_maj@4": WeightedMajorityVote(4), "best": BestOfK(), "own": VoteAccuracy(MeanOfScores()),
    })
    verification, kinds, statistics = SelfVerification(), PassAt1ByKind(["a", "b"]), ResponseStatistics()
    within, brier = WithinProblems(["a", "b"]), BrierByKind(["a", "b"])
    too_many = PassAtK(99)
    wall_time = WallTime()
    wall_time.update(1.5 * (rank + 1))
    wall_time.update(0.25)
    nn.ModuleList([groups, verification, within, brier, kinds, statistics, wall_time, too_many]).to(torch.bfloat16)
    for batch in parts[rank].split(50) if len(parts[rank]) else []:
        part = {key: column[batch] for key, column in rows.items()}
        groups.update(**part)
        too_many.update(**part)
        verification.update(part["self_rewards"], part["rewards"])
        kinds.update(part["problem_ids"] % 2, part["rewards"])
        statistics.update(part["problem_ids"], part["rewards"] > 0.5)
        rows_of_part = (part["problem_ids"], part["sample_indices"], part["self_rewards"], part["rewards"])
        within.update(*rows_of_part, part["problem_ids"] % 2)
        brier.update(part["problem_ids"] % 2, part["self_rewards"], part["rewards"])
    if len(parts[rank]):
        # The last rows again, as a DistributedSampler repeats them: on the rank that has not seen them first.
        groups.update(**{key: column[-20:] for key, column in rows.items()})

    refused = ""
    try:
        too_many.per_problem()
    except ValueError as error:
        refused = str(error)
    best_ids, best_values = groups["best"].per_problem()
    accuracy_curves = problem_curves(groups["pass@1"].sample_groups())
    scores, correct = verification.curves()
    computed = [metric.compute() for metric in (groups, verification, kinds, statistics)]
    results[name] = {
        "values": {key: value.item() for values in computed for key, value in values.items()},
        "best": [best_ids.tolist(), best_values.tolist()],
        "within": {key: value.item() for key, value in within.compute().items()},
        "brier": {key: value.item() for key, value in brier.compute().items()},
        "curves": sorted(zip(scores.tolist(), correct.tolist())),
        "accuracy curves": {key: value.tolist() for key, value in accuracy_curves.items()},
        "seconds": wall_time.compute().item(),
        "refused": refused,
        # What the rank itself holds, after all the gathering.
        "own rows": [len(too_many.held("rewards")), len(verification.held("correct")), len(parts[rank])],
    }
with open(sys.argv[2] + str(rank), "w") as file:
    json.dump(results, file)
torch.distributed.destroy_process_group()
"""


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _run(tmp_path: Path, rows: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Run the worker in two processes; the results of rank 0 and of rank 1."""
    torch.save(rows, tmp_path / "rows.pt")
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "rows.pt"), str(tmp_path / "result"), HERE],
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for worker in workers:
            output, _ = worker.communicate(timeout=300)
            assert worker.returncode == 0, output
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [json.loads((tmp_path / f"result{rank}").read_text()) for rank in range(2)]


def test_two_processes_agree_with_one(
    tmp_path: Path, random_rows: Callable[..., dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(HERE)
    from vote_rules import MeanOfScores  # type: ignore[import-not-found]

    rows = random_rows(problems=30)
    generator = torch.Generator().manual_seed(5)
    rows["finished"] = torch.rand(len(rows["rewards"]), generator=generator) > 0.3
    verdicts = torch.randint(0, 3, (len(rows["rewards"]), 2), generator=generator)
    rows["scores"] = torch.tensor([0.0, 1.0, torch.nan])[verdicts]
    groups: dict[str, GroupMetric] = {
        "pass@1": PassAt1(),
        "pass@4": PassAtK(4),
        "maj@8": MajorityVote(8),
        "weighted_maj@4": WeightedMajorityVote(4),
        "best": BestOfK(),
        "own": VoteAccuracy(MeanOfScores()),
    }
    expected: dict[str, Tensor] = {}
    for name, metric in groups.items():
        metric.update(**rows)
        expected[name] = metric.compute()
    verification, kinds, statistics = SelfVerification(), PassAt1ByKind(["a", "b"]), ResponseStatistics()
    verification.update(rows["self_rewards"], rows["rewards"])
    kinds.update(rows["problem_ids"] % 2, rows["rewards"])
    statistics.update(rows["problem_ids"], rows["rewards"] > 0.5)
    within, brier = WithinProblems(["a", "b"]), BrierByKind(["a", "b"])
    columns = (rows["problem_ids"], rows["sample_indices"], rows["self_rewards"], rows["rewards"])
    within.update(*columns, rows["problem_ids"] % 2)
    brier.update(rows["problem_ids"] % 2, rows["self_rewards"], rows["rewards"])
    exact = {
        "within": {key: value.item() for key, value in within.compute().items()},
        "brier": {key: value.item() for key, value in brier.compute().items()},
    }
    assert 0 < exact["within"]["mixed_problems/a"] < exact["within"]["mixed_problems"]
    expected.update({**verification.compute(), **kinds.compute(), **statistics.compute()})
    curves = [list(pair) for pair in zip(*(column.tolist() for column in verification.curves()), strict=True)]

    best = [column.tolist() for column in groups["best"].per_problem()]

    accuracy_curves = problem_curves(groups["pass@1"].sample_groups())

    ranks = _run(tmp_path, rows)
    for rank, results in enumerate(ranks):
        for name, result in results.items():
            values = {key: value.item() for key, value in expected.items()}
            assert result["values"] == pytest.approx(values, abs=1e-6), (rank, name)
            assert {key: result[key] for key in exact} == exact, (rank, name)
            assert result["best"] == best, (rank, name)
            assert result["curves"] == sorted(curves), (rank, name)
            for key, column in accuracy_curves.items():
                assert result["accuracy curves"][key] == pytest.approx(column.tolist()), (rank, name, key)
            assert result["seconds"] == 3.25, (rank, name)  # the second rank's 2 * 1.5 + 0.25
            assert "k is 99, but problem 3 has only 8 sampled solutions" in result["refused"], (rank, name)
            held, held_verification, given = result["own rows"]
            assert held == held_verification == given, (rank, name)
