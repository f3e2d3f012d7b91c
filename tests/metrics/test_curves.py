from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from laser_lightning.metrics import (
    BestOfK,
    GroupMetric,
    MajorityVote,
    PassAtK,
    SampleGroups,
    WeightedMajorityVote,
    curve_points,
    problem_curves,
)

Rows = dict[str, Tensor]
METRICS: dict[str, type[GroupMetric]] = {
    "maj": MajorityVote,
    "weighted_maj": WeightedMajorityVote,
    "best_of": BestOfK,
}


def value_of(metric: GroupMetric, rows: Rows) -> float:
    metric.update(**rows)
    return metric.compute().item()


@pytest.mark.parametrize(
    ("samples", "points"),
    [(0, []), (1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (11, [1, 2, 4, 8, 11]), (32, [1, 2, 4, 8, 16, 32])],
)
def test_points(samples: int, points: list[int]) -> None:
    assert curve_points(samples) == points


def test_values_by_hand() -> None:
    # Answers 1 1 2 2 2, where 2 is right; scores 0.9, 0.1, 0.8, 0.5, 0.6.
    groups = SampleGroups.regroup(
        problem_ids=torch.zeros(5, dtype=torch.int64),
        sample_indices=torch.arange(5),
        rewards=torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]),
        answer_ids=torch.tensor([1, 1, 2, 2, 2]),
        self_rewards=torch.tensor([0.9, 0.1, 0.8, 0.5, 0.6]),
    )
    values = {name: value.item() for name, value in problem_curves(groups).items()}
    expected = {
        # k = 1: every solution is a block: 3 of 5 are right.
        **dict.fromkeys(("pass@1", "maj@1", "weighted_maj@1", "best_of@1"), 0.6),
        # k = 2: blocks (1, 1) and (2, 2), the fifth is left out; one pair of ten is wrong twice.
        "pass@2": 0.9,
        **dict.fromkeys(("maj@2", "weighted_maj@2", "best_of@2"), 0.5),
        # k = 4: one block 1 1 2 2: the votes tie, 1.0 against 1.3, and the best score, 0.9, is wrong.
        "pass@4": 1.0,
        "maj@4": 0.5,
        "weighted_maj@4": 1.0,
        "best_of@4": 0.0,
        # k = 5: 2 has three votes of five, and 1.9 of weight.
        "pass@5": 1.0,
        "maj@5": 1.0,
        "weighted_maj@5": 1.0,
        "best_of@5": 0.0,
    }
    assert values == pytest.approx(expected)


@pytest.mark.parametrize("samples", [8, 11])
def test_values_are_those_of_a_loop_over_problems_and_blocks(random_rows: Callable[..., Rows], samples: int) -> None:
    rows = random_rows(problems=12, samples=samples)
    curves = problem_curves(SampleGroups.regroup(**rows))
    ids = rows["problem_ids"].unique().tolist()
    assert curves.keys() == {f"{name}@{k}" for name in (*METRICS, "pass") for k in curve_points(samples)}
    for k in curve_points(samples):
        for number, problem in enumerate(ids):
            own = {name: column[rows["problem_ids"] == problem] for name, column in rows.items()}
            assert curves[f"pass@{k}"][number] == pytest.approx(value_of(PassAtK(k), own))
            for name, metric in METRICS.items():
                blocks = []
                for start in range(0, samples - k + 1, k):
                    index = own["sample_indices"]
                    block = (index >= start) & (index < start + k)
                    blocks.append(value_of(metric(), {key: column[block] for key, column in own.items()}))
                assert curves[f"{name}@{k}"][number] == pytest.approx(sum(blocks) / len(blocks))


def test_a_rule_beside_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    from vote_rules import MeanOfScores  # type: ignore[import-not-found]

    # Answers 1 1 2 1, where 2 is right; scores 0.1, 0.5, 0.4, 0.3.
    groups = SampleGroups.regroup(
        problem_ids=torch.zeros(4, dtype=torch.int64),
        sample_indices=torch.arange(4),
        rewards=torch.tensor([0.0, 0.0, 1.0, 0.0]),
        answer_ids=torch.tensor([1, 1, 2, 1]),
        self_rewards=torch.tensor([0.1, 0.5, 0.4, 0.3]),
    )
    curves = problem_curves(groups, [MeanOfScores("own")])
    assert list(curves)[-5:] == ["pass@4", "maj@4", "weighted_maj@4", "best_of@4", "own@4"]
    # One of 4; of the blocks (1, 1) and (2, 1) the second; 0.4 against the mean of 0.1, 0.5 and 0.3.
    assert [curves[f"own@{k}"].item() for k in (1, 2, 4)] == [0.25, 0.5, 1.0]


def test_the_last_point_is_the_metric(random_rows: Callable[..., Rows]) -> None:
    rows = random_rows(problems=20, samples=6)
    curves = problem_curves(SampleGroups.regroup(**rows))
    for name, metric in METRICS.items():
        assert curves[f"{name}@6"].mean().item() == pytest.approx(value_of(metric(), rows))


def test_the_problem_with_the_fewest_solutions_ends_the_curve(random_rows: Callable[..., Rows]) -> None:
    rows = random_rows(problems=5, samples=8)
    short = (rows["problem_ids"] == 3) & (rows["sample_indices"] >= 3)
    curves = problem_curves(SampleGroups.regroup(**{name: column[~short] for name, column in rows.items()}))
    assert [name for name in curves if name.startswith("maj")] == ["maj@1", "maj@2", "maj@3"]
    assert all(len(values) == 5 for values in curves.values())


def test_nothing_has_no_curve() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    assert problem_curves(SampleGroups.regroup(nothing, nothing, nothing.float(), nothing, nothing.float())) == {}
