"""The records of ``predict``, worked out by hand, in both formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from laser_lightning.callbacks import Predictions
from laser_lightning.callbacks.predictions import SCHEMA, records
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.policy.model import PolicySettings
from laser_lightning.records.rollout import Rollout
from laser_lightning.verifiers import ExactVerifier, Verification, VerifierPool


def solution(text: str, answer: str | None, self_reward: Any, tokens: int, finished: bool = True) -> dict[str, Any]:
    return {
        "text": text,
        "answer": answer,
        "reward": float(answer == "2"),
        "self_reward": self_reward,
        "verdict": self_reward == 1.0 or self_reward == pytest.approx(0.8),
        "finished": finished,
        "tokens": tokens,
    }


# c_ref = -20 and beta = 0.1: log-probs of -10, -20 and -12 are self-rewards of 1, 0 and 0.8. The answer 2 has 2 votes.
SOLUTIONS = [
    solution("a#2", "2", pytest.approx(1.0), 4),
    solution("bc#3", "3", pytest.approx(0.0), 5),
    solution("#2", "2", pytest.approx(0.8), 3),
    solution("dddd", None, 0.0, 4, finished=False),
]


def contents(path: Path) -> Any:
    """What a file holds: a Parquet file's table and its parts, since its bytes need not be the same twice."""
    if path.suffix == ".jsonl":
        return path.read_bytes()
    file = pq.ParquetFile(path)
    return file.read().to_pylist(), [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]


def expected(index: int) -> dict[str, Any]:
    votes = {"majority": "2", "weighted_majority": "2", "best": "2"}
    problem = {"dataset": "sums", "index": index, "kind": ("sum", "product")[index % 2], "problem": f"{index}?"}
    return {**problem, "gold": "2", "k": 4, **votes, "solutions": SOLUTIONS}


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_every_problem_is_a_record(format: Any, make_run: Callable[..., Any], tmp_path: Path) -> None:
    make_run(Predictions(format)).predict()
    path = tmp_path / "run" / "predictions" / f"sums.{format}"
    if format == "jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        rows = pq.read_table(path).to_pylist()
        assert pq.ParquetFile(path).num_row_groups == 2  # batches of 2 and 1
    assert rows == [expected(index) for index in range(3)]
    assert list(rows[0]) == SCHEMA.names
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_killed_run_writes_the_whole_file_when_it_is_repeated(
    format: Any, make_run: Callable[..., Any], scripted_engine: type[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    generate, calls = scripted_engine.generate, []

    def counting(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedError
        return generate(*args)

    monkeypatch.setattr(scripted_engine, "generate", counting)
    with pytest.raises(InterruptedError):
        make_run(Predictions(format)).predict()
    path = tmp_path / "run" / "predictions" / f"sums.{format}"
    assert [file.name for file in path.parent.iterdir()] == [f"{path.name}.partial"]

    make_run(Predictions(format)).predict()
    assert len(calls) == 3  # one batch was there
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    first = contents(path)
    make_run(Predictions(format)).predict()
    assert len(calls) == 3
    assert contents(path) == first == contents(path.with_name(f"sums.1.{format}"))


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_votes_by_rules_of_the_users(
    format: Any, make_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "metrics")
    from vote_rules import MeanOfScores  # type: ignore[import-not-found]

    rules = [MeanOfScores("own"), MeanOfScores("other")]
    make_run(Predictions(format), evaluation=EvaluationSettings(samples=4, votes=rules)).predict()
    path = tmp_path / "run" / "predictions" / f"sums.{format}"
    if format == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = pq.read_table(path).to_pylist()
    # 2 has (1 + 0.8) / 2, 3 has 0.
    votes = {"votes": {"own": "2", "other": "2"}}
    assert rows == [expected(index) | votes for index in range(3)]
    assert list(rows[0])[-2:] == ["votes", "solutions"]


def test_the_votes_differ(make_rollouts: Callable[..., Any]) -> None:
    # Problem 0, plain: 4 twice; clamped sums: 4 has 0.1 + 0.2, 5 has 0.7. None has 0.9, and is not the best
    # either. Problem 1 has no answer at all.
    answers = ["4", "5", "4", None, None, None, None, None]
    rollouts = make_rollouts(prompts=2, group_size=4)
    rollouts.finished[:] = True
    rollout = Rollout(
        [Problem("a", number, "", "", [5], "4") for number in range(2)],
        rollouts,
        ["\ud83d"] * 8,
        [Verification(0.0, answer) for answer in answers],
        torch.zeros(8),
        None,
        torch.tensor([0.1, 0.7, 0.2, 0.9, torch.nan, 0.0, 0.0, 0.0]),
    )
    first, second = records(rollout, VerifierPool(ExactVerifier(r"(\d)"), workers=0))
    assert (first["majority"], first["weighted_majority"], first["best"]) == ("4", "5", "5")
    assert [s["verdict"] for s in first["solutions"]] == [False, True, False, True]
    assert (second["majority"], second["weighted_majority"], second["best"]) == (None, None, None)
    assert second["solutions"][0]["self_reward"] is None
    assert first["kind"] is None


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_half_a_surrogate_pair_can_be_written(
    format: Any, make_run: Callable[..., Any], scripted_engine: type[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    run = make_run(Predictions(format))
    decode = run.module.tokenizer.batch_decode
    monkeypatch.setattr(run.module.tokenizer, "batch_decode", lambda *a, **o: [t + "\ud83d" for t in decode(*a, **o)])
    run.predict()
    path = tmp_path / "run" / "predictions" / f"sums.{format}"
    if format == "jsonl":
        assert json.loads(path.read_text(encoding="utf-8").splitlines()[0])["solutions"][0]["text"] == "a#2\ud83d"
    else:
        assert pq.read_table(path).to_pylist()[0]["solutions"][0]["text"] == r"a#2\ud83d"


def test_it_writes_nothing_but_in_predict(make_run: Callable[..., Any], tmp_path: Path) -> None:
    run = make_run(Predictions(), max_steps=1)
    run.fit()
    run.validate()
    run.test()
    assert not (tmp_path / "run" / "predictions").exists()


def test_wrong_settings_are_refused(make_run: Callable[..., Any], policy_dir: Path) -> None:
    with pytest.raises(UserError, match="format is 'csv', and must be jsonl or parquet"):
        Predictions("csv")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="filename is empty"):
        Predictions(filename="")
    run = make_run(Predictions(), module=SupervisedModule(PolicySettings(path=str(policy_dir))))
    with pytest.raises(UserError, match="set `predictions: null`"):
        run.predict()
