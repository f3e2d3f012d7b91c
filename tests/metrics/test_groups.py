from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from laser_lightning.metrics import (
    BestOfK,
    GroupMetric,
    MajorityVote,
    PassAt1,
    PassAtK,
    SampleGroups,
    WeightedMajorityVote,
)

Rows = dict[str, Tensor]
MakeRows = Callable[..., Rows]
METRICS: dict[str, Callable[[], GroupMetric]] = {
    "pass@1": PassAt1,
    "pass@4": lambda: PassAtK(4),
    "maj@8": lambda: MajorityVote(8),
    "maj": MajorityVote,
    "weighted_maj@4": lambda: WeightedMajorityVote(4),
    "weighted_maj": WeightedMajorityVote,
    "best_of_3": lambda: BestOfK(3),
    "best": BestOfK,
}
each_metric = pytest.mark.parametrize("make", METRICS.values(), ids=METRICS.keys())


def _select(rows: Rows, index: Tensor | slice) -> Rows:
    return {name: column[index] for name, column in rows.items()}


def _value(make: Callable[[], GroupMetric], *batches: Rows) -> Tensor:
    metric = make()
    for batch in batches:
        metric.update(**batch)
    return metric.compute()


def test_regroup_by_hand() -> None:
    # In order: problem 2 with samples 0, 1, 5; problem 9 with sample 3. (2, 5) comes twice: the first counts.
    groups = SampleGroups.regroup(
        problem_ids=torch.tensor([9, 2, 2, 2, 2]),
        sample_indices=torch.tensor([3, 5, 1, 5, 0]),
        rewards=torch.tensor([1.0, 0.0, 0.6, 1.0, 0.5]),
        answer_ids=torch.tensor([90, 25, 21, 99, -1]),
        self_rewards=torch.tensor([0.9, 0.25, 0.21, 0.99, 0.2]),
    )
    assert groups.problem_ids.tolist() == [2, 9]
    assert groups.sizes.tolist() == [3, 1]
    assert groups.problem.tolist() == [0, 0, 0, 1]
    assert groups.answer_ids.tolist() == [-1, 21, 25, 90]
    assert groups.correct.tolist() == [False, True, False, True]
    assert groups.sum(groups.self_rewards).tolist() == pytest.approx([0.66, 0.9])

    first = groups.first(1)
    assert first.sizes.tolist() == [1, 1]
    assert first.answer_ids.tolist() == [-1, 90]
    assert first.problem.tolist() == [0, 1]


@each_metric
def test_order_and_batches_do_not_matter(make: Callable[[], GroupMetric], random_rows: MakeRows) -> None:
    rows = random_rows()
    whole = _value(make, rows)
    assert 0 < whole < 1
    order = torch.randperm(len(rows["rewards"]), generator=torch.Generator().manual_seed(1))
    assert _value(make, *[_select(rows, part) for part in order.split(17)]) == whole


@each_metric
def test_groups_split_over_merged_metrics(make: Callable[[], GroupMetric], random_rows: MakeRows) -> None:
    rows = random_rows()
    left, right, idle = make(), make(), make()
    left.update(**_select(rows, slice(0, None, 3)))
    right.update(**_select(rows, slice(1, None, 3)))
    right.update(**_select(rows, slice(2, None, 3)))
    left.merge_state(right)
    left.merge_state(idle)
    assert left.compute() == _value(make, rows)


@each_metric
def test_a_repeated_row_counts_once(make: Callable[[], GroupMetric], random_rows: MakeRows) -> None:
    rows = random_rows()
    repeated = _select(rows, slice(0, 50))
    # A repeated problem may have been sampled anew: the first result stands.
    resampled = {**repeated, "rewards": 1 - repeated["rewards"], "self_rewards": repeated["self_rewards"] + 9}
    assert _value(make, rows, repeated, resampled) == _value(make, rows)


@each_metric
def test_per_problem_values_have_compute_as_their_mean(make: Callable[[], GroupMetric], random_rows: MakeRows) -> None:
    metric = make()
    metric.update(**random_rows())
    problem_ids, values = metric.per_problem()
    assert problem_ids.tolist() == [7 * index + 3 for index in range(40)]
    assert values.dtype == torch.float32
    assert values.mean() == metric.compute()
    metric.update(**random_rows(problems=41))  # still accepts data
    assert len(metric.per_problem()[0]) == 41


@each_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_data_is_undefined(make: Callable[[], GroupMetric], random_rows: MakeRows) -> None:
    metric = make()
    assert metric.compute().isnan()
    metric.update(**_select(random_rows(), slice(0, 0)))
    assert metric.compute().isnan()
    assert [len(column) for column in metric.per_problem()] == [0, 0]


@each_metric
def test_groups_of_unequal_size(make: Callable[[], GroupMetric], random_rows: MakeRows) -> None:
    rows = random_rows(samples=16)
    keep = rows["sample_indices"] < 8 + rows["problem_ids"] % 9
    ragged = _select(rows, keep)
    metric = make()
    metric.update(**ragged)
    problem_ids, values = metric.per_problem()
    for problem_id, value in zip(problem_ids.tolist(), values, strict=True):
        assert _value(make, _select(ragged, ragged["problem_ids"] == problem_id)) == value


@pytest.mark.parametrize("make", [lambda: PassAtK(9), lambda: MajorityVote(9), lambda: BestOfK(9)])
def test_k_above_the_samples_of_a_problem_is_refused(make: Callable[[], GroupMetric], random_rows: MakeRows) -> None:
    metric = make()
    metric.update(**_select(random_rows(samples=9), slice(1, None)))  # one problem has 8, the others 9
    with pytest.raises(ValueError, match=r"k is 9, but problem \d+ has only 8 sampled solutions \(1 of 40"):
        metric.compute()


@pytest.mark.parametrize("make", [PassAtK, MajorityVote, WeightedMajorityVote, BestOfK])
def test_k_below_one_is_refused(make: Callable[[int], GroupMetric]) -> None:
    with pytest.raises(ValueError, match="needs k of at least 1, but k is 0"):
        make(0)


def _collection() -> MetricCollection:
    return MetricCollection({name: make() for name, make in METRICS.items()})


def test_a_collection_stores_rows_once_and_computes_right_also_after_reset(random_rows: MakeRows) -> None:
    collection = _collection()
    for seed in (3, 4):
        rows = random_rows(seed=seed)
        for part in torch.arange(320).split(110):
            collection.update(**_select(rows, part))
        assert [sorted(group) for group in collection.compute_groups.values()] == [sorted(METRICS)]
        for state in ("problem_ids", "sample_indices", "rewards", "answer_ids", "self_rewards"):
            held = [getattr(metric, state) for metric in collection.values(copy_state=False)]
            assert all(tensors is held[0] for tensors in held)
            assert torch.equal(torch.cat(held[0]), rows[state])
        assert collection.compute() == {name: _value(make, rows) for name, make in METRICS.items()}
        best_of_3 = collection["best_of_3"]
        assert isinstance(best_of_3, BestOfK)
        problem_ids, values = best_of_3.per_problem()
        assert len(problem_ids) == 40
        assert values.mean() == _value(METRICS["best_of_3"], rows)
        collection.reset()
        assert all(metric.metric_state["rewards"] == [] for metric in collection.values(copy_state=False))
