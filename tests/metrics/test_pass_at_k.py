from itertools import combinations
from math import comb

import pytest
import torch
from torch import Tensor

from laser_lightning.metrics import GroupMetric, PassAt1, PassAt1ByKind, PassAtK


def _updated(metric: GroupMetric, *groups: list[float]) -> GroupMetric:
    """One problem per group of rewards, problem ids 0, 1, ..."""
    for problem_id, rewards in enumerate(groups):
        size = len(rewards)
        metric.update(
            problem_ids=torch.full((size,), problem_id),
            sample_indices=torch.arange(size),
            rewards=torch.tensor(rewards),
            answer_ids=torch.full((size,), -1),
            self_rewards=torch.zeros(size),
        )
    return metric


def test_pass_at_1_is_a_mean_over_problems() -> None:
    # Problems count alike, however many samples they have: (1/4 + 1/1) / 2 = 0.625, and not 2/5.
    assert _updated(PassAt1(), [1, 0, 0, 0], [1]).compute().item() == 0.625


def test_pass_at_1_counts_rewards_above_one_half() -> None:
    assert _updated(PassAt1(), [0.5, 0.51, -1.0, 7.0]).compute().item() == 0.5


def test_pass_at_k_by_hand() -> None:
    # n = 4, c = 1, k = 2: 1 - C(3, 2) / C(4, 2) = 1 - 3/6 = 0.5. n = 4, c = 3: fewer than 2 are incorrect: 1.
    metric = _updated(PassAtK(2), [0, 1, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0])
    assert metric.per_problem()[1].tolist() == [0.5, 1.0, 0.0]
    assert metric.compute().item() == 0.5


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_pass_at_k_equals_the_mean_over_all_draws(k: int) -> None:
    groups = [[1.0] * correct + [0.0] * (6 - correct) for correct in range(7)]
    expected = [
        sum(max(draw) for draw in combinations(rewards, k)) / comb(6, k) for rewards in groups
    ]  # the definition: draw k of the n solutions in every possible way
    values = _updated(PassAtK(k), *groups).per_problem()[1]
    assert values.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("k", [256, 1000])
@pytest.mark.parametrize("correct", [0, 1, 3, 900, 1000])
def test_pass_at_k_is_stable_for_many_samples(correct: int, k: int) -> None:
    # C(1000, 256) has more than 200 digits: outside of float32, exact in Python's integers.
    value = _updated(PassAtK(k), [1.0] * correct + [0.0] * (1000 - correct)).compute().item()
    assert value == pytest.approx(1 - comb(1000 - correct, k) / comb(1000, k), abs=1e-5)


def test_pass_at_k_refuses_too_few_samples() -> None:
    with pytest.raises(ValueError, match="k is 3, but problem 1 has only 2 sampled solutions"):
        _updated(PassAtK(3), [0, 0, 0], [1, 1]).compute()


def test_by_kind() -> None:
    # Kind b: rewards 1, 0.2, 0.7: two of three are correct. Kind c has no solution yet.
    metric = PassAt1ByKind(["a", "b", "c"])
    metric.update(torch.tensor([1, 0, 1]), torch.tensor([1.0, 0.0, 0.2]))
    metric.update(torch.tensor([1]), torch.tensor([0.7]))
    values = metric.compute()
    assert list(values) == ["a", "b", "c"]
    assert values["a"].item() == 0.0
    assert values["b"].item() == pytest.approx(2 / 3)
    assert values["c"].isnan()


def test_by_kind_merges_and_resets() -> None:
    left, right = PassAt1ByKind(["a", "b"]), PassAt1ByKind(["a", "b"])
    left.update(torch.tensor([0, 0, 1]), torch.tensor([1.0, 0.0, 1.0]))
    right.update(torch.tensor([0, 0]), torch.tensor([1.0, 1.0]))
    left.merge_state(right)
    assert left.solutions.dtype == left.correct.dtype == torch.int64
    assert {kind: value.item() for kind, value in left.compute().items()} == {"a": 0.75, "b": 1.0}
    left.reset()
    left.update(torch.tensor([0]), torch.tensor([0.0]))
    assert left.compute()["a"].item() == 0.0
    assert left.compute()["b"].isnan()


@pytest.mark.against_signatures
@pytest.mark.parametrize("kind_id", [-1, 2])
def test_by_kind_refuses_unknown_ids(kind_id: int) -> None:
    metric = PassAt1ByKind(["a", "b"])
    with pytest.raises(ValueError, match=rf"kind id {kind_id} is not in 0\.\.1"):
        metric.update(torch.tensor([0, kind_id]), torch.ones(2))
    with pytest.raises(ValueError, match=r"integers in kind_ids"):
        metric.update(torch.tensor([0.0, 1.0]), torch.ones(2))
    assert metric.solutions.tolist() == [0, 0]


@pytest.mark.parametrize("kinds", [[], ["a", "b", "a"]])
def test_by_kind_refuses_bad_names(kinds: list[str]) -> None:
    with pytest.raises(ValueError, match="kinds must name at least one kind and each only once"):
        PassAt1ByKind(kinds)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_by_kind_without_data_is_undefined() -> None:
    values: dict[str, Tensor] = PassAt1ByKind(["a"]).compute()
    assert values["a"].isnan()
