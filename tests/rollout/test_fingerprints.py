"""Digests of weights, problems and settings change with what they stand for, and with nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from laser_lightning.data.problem import Problem
from laser_lightning.rollout import TransformersEngine, fingerprints
from laser_lightning.rollout.fingerprints import (
    described,
    problems_fingerprint,
    prompt_fingerprint,
    weights_fingerprint,
)
from laser_lightning.verifiers import ExactVerifier, MixedVerifier, WeightedReward, WeightedRewards


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).to(dtype)


@pytest.mark.parametrize("at_once", [2**22, 3], ids=["whole", "in parts"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_changed_number_or_two_exchanged_ones_change_it(
    dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "AT_ONCE", at_once)
    original = weights_fingerprint(model(dtype))
    assert weights_fingerprint(model(dtype)) == original

    def changed(change: Callable[[torch.Tensor], None]) -> str:
        other = model(dtype)
        with torch.no_grad():
            change(other[0].weight)  # type: ignore[index]
        return weights_fingerprint(other)

    def last_bit(weight: torch.Tensor) -> None:
        weight[3, 4] = weight[3, 4] * (1 + torch.finfo(dtype).eps)

    def exchange(weight: torch.Tensor) -> None:
        weight[[0, 2]] = weight[[2, 0]]

    assert len({original, changed(last_bit), changed(exchange), changed(torch.Tensor.zero_)}) == 4


def test_names_and_dtypes_count_too() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    with torch.no_grad():
        for parameter in (*one.parameters(), *other.parameters()):
            parameter.zero_()
    assert weights_fingerprint(one) == weights_fingerprint(other)
    assert weights_fingerprint(one) != weights_fingerprint(other.half())
    assert weights_fingerprint(nn.Sequential(one)) != weights_fingerprint(one)


def test_problems_are_their_rows_prompts_and_gold_answers_in_order() -> None:
    first, second = Problem("a", 0, "1+1", "", [5, 6], "2"), Problem("a", 1, "1+2", "", [5, 7], "3")
    original = problems_fingerprint([first, second])
    assert problems_fingerprint([first._replace(dataset="b", kind="sum"), second]) == original
    others = [[second, first], [first], *([first._replace(**{key: value}), second] for key, value in CHANGES.items())]
    assert original not in {problems_fingerprint(other) for other in others}
    assert prompt_fingerprint([5, 6]) != prompt_fingerprint([56])


CHANGES = {"index": 2, "prompt_ids": [5], "answer": "4"}


def test_a_part_is_described_by_what_is_configured() -> None:
    assert described(TransformersEngine(max_batch_size=7)) == {
        "class": "laser_lightning.rollout.transformers.engine.TransformersEngine",
        "max_batch_size": 7,
        "max_cached_tokens": None,
        "max_prefill_tokens": 16384,
        "drop_fraction": 0.125,
        "scores": True,
        "compile": False,
        "use_cache": True,
    }

    class Part:
        def __init__(self) -> None:
            self.names, self.tensor, self._hidden = ["a"], torch.ones(1), 3

    assert {key: value for key, value in described(Part()).items() if key != "class"} == {"names": ["a"]}


def test_rewards_are_described_with_their_weights_and_verifiers() -> None:
    def described_sum(weight: float, pattern: str) -> dict[str, Any]:
        return described(WeightedRewards({"right": WeightedReward(ExactVerifier(pattern), weight)}, "right"))

    found = described_sum(2.0, "#(.)")
    assert found["target"] == "right"
    assert found["rewards"]["right"]["weight"] == 2.0
    assert found["rewards"]["right"]["verifier"]["pattern"] == "#(.)"
    assert found == described_sum(2.0, "#(.)")
    # An earlier release's solutions of several verifiers are still those of the same header.
    assert set(described(MixedVerifier({"a": ExactVerifier()}))) == {
        "class",
        "verifiers",
        "default",
        "canonical_decides",
    }
