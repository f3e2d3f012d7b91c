"""Intervals, curves and the average of what was logged, and the files that hold them."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from laser_lightning.callbacks.results import (
    EvaluationResult,
    evaluation_result,
    write_curves,
    write_json,
    write_table,
)
from laser_lightning.metrics import SampleGroups

NAN = math.nan


def groups_of(correct: list[list[int]]) -> SampleGroups:
    """Problems with a row of solutions each, whose answer and self-reward are their correctness."""
    rows = torch.tensor(correct)
    problems, samples = rows.shape
    return SampleGroups.regroup(
        problem_ids=torch.arange(problems).repeat_interleave(samples),
        sample_indices=torch.arange(samples).repeat(problems),
        rewards=rows.flatten().float(),
        answer_ids=rows.flatten(),
        self_rewards=rows.flatten().float(),
    )


@pytest.fixture
def result() -> EvaluationResult:
    """A set of three problems with 2 samples, and one of two problems with 4."""
    return evaluation_result(
        "val",
        7,
        {
            "two": {"seconds": 3.0, "maj@2": 0.5, "pass@1": 0.5, "reward": 0.5, "self_verification/auroc": NAN},
            "four": {
                "seconds": 5.0,
                "maj@4": 1.0,
                "pass@1": 0.75,
                "reward": 0.75,
                "self_verification/auroc": 0.9,
                "response/length_tokens": 20.0,
                "response/judging_tokens": 3.0,
            },
        },
        {"two": groups_of([[1, 1], [0, 1], [0, 0]]), "four": groups_of([[1, 0, 1, 1], [1, 1, 1, 0]])},
    )


def test_sets_keep_what_was_logged_in_order(result: EvaluationResult) -> None:
    two = result.sets["two"]
    assert (two.problems, two.samples) == (3, 2)
    assert list(two.values) == ["pass@1", "maj@2", "self_verification/auroc", "reward", "seconds"]
    assert two.values["seconds"] == 3
    assert two.intervals.keys() == {"pass@1", "maj@2", "reward"}
    # 1, 0.5 and 0: three draws average 0 or 1 once in 27 times each, so both ends are within the 95%.
    assert two.intervals["pass@1"] == (0.0, 1.0)


def test_curves_by_hand(result: EvaluationResult) -> None:
    values = {
        name: {k: point.value for k, point in curve.items()} for name, curve in result.sets["four"].curves.items()
    }
    assert values == {
        "pass": {1: 0.75, 2: 1.0, 4: 1.0},
        "maj": {1: 0.75, 2: 0.75, 4: 1.0},  # 1 0 and 1 0 tie
        "weighted_maj": {1: 0.75, 2: 1.0, 4: 1.0},
        "best_of": {1: 0.75, 2: 1.0, 4: 1.0},
    }
    point = result.sets["four"].curves["maj"][4]
    assert (point.low, point.high) == (1.0, 1.0)


def test_a_rule_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "metrics")
    from vote_rules import MeanOfScores  # type: ignore[import-not-found]

    groups = groups_of([[1, 0, 1, 1], [1, 1, 1, 0]])
    values = {"own@4": 1.0, "pass@1": 0.75}
    result = evaluation_result("val", 7, {"a": values, "b": values}, {"a": groups, "b": groups}, [MeanOfScores("own")])
    assert result.average is not None
    for one in (result.sets["a"], result.average):
        assert list(one.curves) == ["pass", "maj", "weighted_maj", "best_of", "own"]
        # A wrong solution has the score 0: 1 wins wherever there is one. Of 8 solutions 2 are wrong.
        assert [point.value for point in one.curves["own"].values()] == [0.75, 1.0, 1.0]
        assert one.intervals["own@4"] == (1.0, 1.0)


def test_the_average_has_what_all_sets_have(result: EvaluationResult) -> None:
    average = result.average
    assert average is not None
    assert (average.problems, average.samples) == (None, None)
    assert average.values.keys() == {"pass@1", "reward", "seconds", "self_verification/auroc"}
    assert (average.values["pass@1"], average.values["seconds"]) == (0.625, 4.0)
    assert math.isnan(average.values["self_verification/auroc"])  # one set's is undefined
    assert {name: list(curve) for name, curve in average.curves.items()} == {
        name: [1, 2] for name in ("pass", "maj", "weighted_maj", "best_of")
    }
    # maj@2: (0.5 + 0.75) / 2
    assert average.curves["maj"][2].value == pytest.approx(0.625)
    # "four" is 0.75 in every resample of pass@1, and "two" from 0 to 1.
    assert average.intervals["pass@1"] == (0.375, 0.875)


def test_sets_are_resampled_independently() -> None:
    rows = [[number % 2] for number in range(50)]
    sets = {"a": groups_of(rows), "b": groups_of(rows)}
    result = evaluation_result("val", 0, {name: {"pass@1": 0.5} for name in sets}, sets)
    low, high = result.sets["a"].intervals["pass@1"]
    assert result.average is not None
    average_low, average_high = result.average.intervals["pass@1"]
    # The error of a mean of two independent means is smaller by the root of 2.
    assert (average_high - average_low) / (high - low) == pytest.approx(2**-0.5, abs=0.1)


def test_one_set_has_no_average_and_one_problem_no_interval() -> None:
    result = evaluation_result("val", 0, {"one": {"pass@1": 1.0}}, {"one": groups_of([[1]])})
    assert result.average is None
    assert result.sets["one"].values == {"pass@1": 1.0}
    assert all(math.isnan(end) for end in result.sets["one"].intervals["pass@1"])


def test_a_set_without_solutions_is_undefined() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    empty = SampleGroups.regroup(nothing, nothing, nothing.float(), nothing, nothing.float())
    (one,) = evaluation_result("val", 0, {"empty": {"pass@1": NAN}}, {"empty": empty}).sets.values()
    assert (one.problems, one.samples) == (0, None)
    assert not any(one.curves.values())


def test_files_hold_the_same(result: EvaluationResult, tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv", result)
    write_curves(tmp_path / "curves.csv", result)
    write_json(tmp_path / "all.json", result)

    with (tmp_path / "table.csv").open() as file:
        table = {row["set"]: row for row in csv.DictReader(file)}
    assert list(table) == ["two", "four", "average"]
    assert list(table["two"])[:7] == ["set", "problems", "samples", "pass@1", "pass@1_low", "pass@1_high", "maj@2"]
    assert table["two"]["pass@1_high"] == "1.0"
    assert table["four"]["maj@2"] == table["two"]["maj@4"] == table["average"]["maj@4"] == ""
    assert table["two"]["self_verification/auroc"] == table["average"]["samples"] == ""

    content = json.loads((tmp_path / "all.json").read_text())
    assert (content["stage"], content["step"]) == ("val", 7)
    assert content["interval"]["level"] == 0.95
    assert content["sets"]["two"]["values"]["self_verification/auroc"] is None
    assert content["sets"]["four"]["values"]["seconds"] == float(table["four"]["seconds"]) == 5.0
    assert content["average"]["intervals"]["pass@1"] == [0.375, 0.875]

    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * (2 + 3 + 2)
    columns = ("k", "tokens", "value", "low", "high")
    four = [{name: float(row[name]) for name in columns} for row in rows if row["set"] == "four"]
    assert four == [point for curve in content["sets"]["four"]["curves"].values() for point in curve]
    # Not all of a set's tokens are known.
    assert {row["tokens"] for row in rows if row["set"] == "two"} == {""}
    assert content["sets"]["two"]["curves"]["maj"][0]["tokens"] is None


def test_costs_by_hand(result: EvaluationResult) -> None:
    # A solution has 20 tokens, and 3 more judge it, which majority and pass@k do not need: S (1 + lambda V), with
    # lambda V = 3 / 20.
    four = result.sets["four"]
    assert four.tokens_per_solution == {"pass": 20.0, "maj": 20.0, "weighted_maj": 23.0, "best_of": 23.0}
    assert math.isnan(four.cost("unknown"))
    assert math.isnan(result.sets["two"].cost("maj"))
