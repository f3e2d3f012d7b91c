from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laser_lightning.metrics import (
    BestOfK,
    BrierByKind,
    ExactMetric,
    PassAt1,
    PassAt1ByKind,
    PassAtK,
    ResponseStatistics,
    SelfVerification,
    WeightedMajorityVote,
    WithinProblems,
)

# 6006 and 0.501 are not bfloat16 numbers (they would become 6016 and 0.5), so a cast state shows.
LENGTHS = torch.tensor([6006, 1, 2], dtype=torch.int64)
SCORES = torch.tensor([0.501, 0.499, 0.502, -0.3])
REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0])
IDS = {
    "problem_ids": torch.tensor([300_001, 300_001, 300_003, 300_003]),
    "sample_indices": torch.tensor([0, 1, 0, 1]),
    "answer_ids": torch.tensor([2**62 + 1, 2**62 + 3, 5, 5]),
}
WITHOUT_ANSWERS = {name: column for name, column in IDS.items() if name != "answer_ids"}
METRICS: dict[str, tuple[Callable[[], ExactMetric], dict[str, Tensor]]] = {
    "self_verification": (SelfVerification, {"self_rewards": SCORES, "rewards": REWARDS}),
    "within": (WithinProblems, {**WITHOUT_ANSWERS, "self_rewards": SCORES, "rewards": REWARDS}),
    "brier": (
        lambda: BrierByKind(["a", "b"]),
        {"kind_ids": torch.tensor([0, 1, 0, 1]), "self_rewards": SCORES, "rewards": REWARDS},
    ),
    "statistics": (ResponseStatistics, {"lengths": LENGTHS, "finished": torch.tensor([True, False, True])}),
    "by_kind": (
        lambda: PassAt1ByKind(["a", "b"]),
        {"kind_ids": torch.arange(2).repeat(1001)[:-1], "rewards": torch.arange(2001) % 3 - 1.0},
    ),
    "pass@1": (PassAt1, {**IDS, "self_rewards": SCORES, "rewards": REWARDS}),
    "pass@2": (lambda: PassAtK(2), {**IDS, "self_rewards": SCORES, "rewards": REWARDS}),
    "weighted": (WeightedMajorityVote, {**IDS, "self_rewards": SCORES, "rewards": REWARDS}),
    "best": (BestOfK, {**IDS, "self_rewards": SCORES, "rewards": REWARDS}),
}


def _parent_to(metric: ExactMetric) -> None:
    nn.ModuleDict({"metric": metric, "layer": nn.Linear(1, 1)}).to(torch.bfloat16)


CASTS: dict[str, Callable[[ExactMetric], Any]] = {
    "bfloat16()": lambda metric: metric.bfloat16(),
    "half()": lambda metric: metric.half(),
    "to(bfloat16)": lambda metric: metric.to(torch.bfloat16),
    "to(float16)": lambda metric: metric.to(torch.float16),
    "set_dtype(bfloat16)": lambda metric: metric.set_dtype(torch.bfloat16),
    "set_dtype(float32)": lambda metric: metric.set_dtype(torch.float32),
    "type": lambda metric: metric.type(torch.bfloat16),
    "parent.to(bfloat16)": _parent_to,
    "parent.bfloat16()": lambda metric: nn.ModuleList([metric]).bfloat16(),
    "parent.half()": lambda metric: nn.ModuleList([metric]).half(),
    "parent.double()": lambda metric: nn.ModuleList([metric]).double(),
}


def _dtypes(metric: ExactMetric) -> dict[str, list[torch.dtype]]:
    return {
        name: [tensor.dtype for tensor in (state if isinstance(state, list) else [state])]
        for name, state in metric.metric_state.items()
    }


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    return left.dtype == right.dtype and torch.equal(left.nan_to_num(-9), right.nan_to_num(-9))


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS.keys())
@pytest.mark.parametrize(("make", "rows"), METRICS.values(), ids=METRICS.keys())
def test_casts_leave_states_and_results_alone(
    make: Callable[[], ExactMetric], rows: dict[str, Tensor], cast: Callable[[ExactMetric], Any]
) -> None:
    untouched, metric = make(), make()
    for _ in range(2):
        untouched.update(**rows)
    cast(metric)
    metric.update(**rows)
    cast(metric)
    metric.update(**rows)
    cast(metric)
    assert _dtypes(metric) == _dtypes(untouched)
    assert _equal(metric.compute(), untouched.compute())
    cast(metric)
    assert _equal(metric.compute(), untouched.compute())  # the cached value as well

    metric.reset()
    untouched.reset()
    metric.update(**rows)
    untouched.update(**rows)
    assert _dtypes(metric) == _dtypes(untouched)
    assert _equal(metric.compute(), untouched.compute())


def test_bfloat16_updates_are_held_as_float32() -> None:
    metric = SelfVerification().bfloat16()
    metric.update(torch.tensor([0.25, 0.75], dtype=torch.bfloat16), torch.tensor([0, 1], dtype=torch.bfloat16))
    scores, correct = metric.curves()
    assert scores.dtype == torch.float32
    assert scores.tolist() == [0.25, 0.75]
    assert correct.tolist() == [False, True]


@pytest.mark.parametrize(("make", "rows"), METRICS.values(), ids=METRICS.keys())
def test_forward_gives_the_batch_and_keeps_the_total(make: Callable[[], ExactMetric], rows: dict[str, Tensor]) -> None:
    batch, metric, total = make(), make(), make()
    batch.update(**rows)
    metric(**rows)
    assert _equal(metric(**rows), batch.compute())
    total.update(**rows)
    total.update(**rows)
    assert _equal(metric.compute(), total.compute())


def test_graph_of_the_scores_is_not_kept() -> None:
    metric = SelfVerification()
    metric.update(torch.tensor([0.5], requires_grad=True) * 2, torch.tensor([1.0]))
    metric(torch.tensor([0.5], requires_grad=True) * 2, torch.tensor([1.0]))
    assert not metric.curves()[0].requires_grad


@pytest.mark.against_signatures
@pytest.mark.parametrize(
    ("scores", "rewards"),
    [
        (torch.zeros(3), torch.zeros(2)),
        (torch.zeros(2, 1), torch.zeros(2, 1)),
        (torch.tensor(0.5), torch.tensor(1.0)),
    ],
)
def test_wrong_shapes_are_refused(scores: Tensor, rewards: Tensor) -> None:
    with pytest.raises(ValueError, match=r"1-dimensional tensors of one length, but got self_rewards \("):
        SelfVerification().update(scores, rewards)


def test_nan_is_refused_with_its_position() -> None:
    scores, rewards = torch.tensor([0.1, torch.nan, torch.nan]), torch.ones(3)
    with pytest.raises(ValueError, match=r"NaN in self_rewards at position 1 \(2 of 3 entries\)"):
        SelfVerification().update(scores, rewards)
    with pytest.raises(ValueError, match="NaN in rewards at position 1"):
        SelfVerification().update(rewards, scores)
    with pytest.raises(ValueError, match="NaN in self_rewards at position 2"):
        PassAt1().update(**{**IDS, "rewards": REWARDS, "self_rewards": torch.tensor([0, 0, torch.nan, 0])})


@pytest.mark.against_signatures
def test_float_ids_are_refused() -> None:
    ids = {**IDS, "answer_ids": IDS["answer_ids"].float()}
    with pytest.raises(ValueError, match=r"integers in answer_ids, but got torch\.float32"):
        PassAt1().update(**ids, rewards=REWARDS, self_rewards=SCORES)
