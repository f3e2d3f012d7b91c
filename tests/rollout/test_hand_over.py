"""What the sampler does for an engine with a copy of the weights, and for one that computes with the policy's."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy

from laser_lightning.distributed.parts import StepParts
from laser_lightning.distributed.training_strategy import OneDevice
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import RolloutEngine, Sampling, WeightStream
from laser_lightning.rollout.sampler import Sampler


class CopyingEngine(RolloutEngine):
    """Writes down what it is asked."""

    needs_whole_weights = False

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.copy: dict[str, torch.Tensor] = {}

    def take_weights(self, policy: Policy, weights: AbstractContextManager[WeightStream]) -> None:
        precision = f" under {torch.get_autocast_dtype('cpu')}" if torch.is_autocast_enabled("cpu") else ""
        self.calls.append(f"take{precision}")
        if not self.copy:
            with weights as stream:
                self.copy = dict(stream)

    def generate(self, policy: Policy, *args: Any) -> Rollouts:
        self.calls.append("generate")
        return Rollouts(
            prompt_ids=torch.tensor([[5]]),
            prompt_lengths=torch.tensor([1]),
            response_ids=torch.tensor([[6]]),
            response_lengths=torch.tensor([1]),
            finished=torch.tensor([False]),
            sampling_log_probs=torch.tensor([[-1.0]]),
            reward_token_log_probs=torch.tensor([[torch.nan]]),
        )


class WholeEngine(CopyingEngine):
    """Needs the policy's own."""

    needs_whole_weights = True


def sampler_of(policy: Policy, engine: RolloutEngine, precision: Precision, gathered: list[Any]) -> Sampler:
    @contextmanager
    def gather(*models: Any) -> Iterator[None]:
        gathered.append(models)
        yield

    head: Any = SimpleNamespace(score_token_ids=(3,), reads_hidden=False, is_exact=False)
    parts, nobody = StepParts(), None
    parts.strategy = OneDevice(SingleDeviceStrategy("cpu", precision_plugin=precision))
    return Sampler(policy, nobody, engine, nobody, head, None, gather, parts, 100)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("precision", "take"),
    [(Precision(), "take"), (MixedPrecision("bf16-mixed", "cpu"), "take under torch.bfloat16")],
    ids=["float32", "bf16-mixed"],
)
def test_a_copy_is_renewed_before_a_draw(make_policy: Callable[..., Policy], precision: Precision, take: str) -> None:
    policy, engine, gathered = make_policy(), CopyingEngine(), []
    sampler = sampler_of(policy, engine, precision, gathered)
    for _ in range(2):
        sampler.draw([[5]], 1, Sampling(), torch.Generator())
    assert engine.calls == [take, "generate"] * 2
    assert gathered == [(None,)] * 2
    state = policy.lm.state_dict()
    assert engine.copy.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in engine.copy.items())


def test_other_engines_find_the_policy_whole(make_policy: Callable[..., Policy]) -> None:
    policy, engine, gathered = make_policy(), WholeEngine(), []
    sampler_of(policy, engine, Precision(), gathered).draw([[5]], 1, Sampling(), torch.Generator())
    assert engine.calls == ["generate"]
    assert gathered == [(policy,)]


def test_models_that_a_rollout_computes_with(make_policy: Callable[..., Policy]) -> None:
    policy, reference = make_policy(), make_policy()
    whole = sampler_of(policy, WholeEngine(), Precision(), [])
    copying = sampler_of(policy, CopyingEngine(), Precision(), [])
    assert (whole.computing_models, copying.computing_models) == ([policy], [])
    copying.self_reward.reads_hidden = True
    assert copying.computing_models == [policy]
    copying.self_reward.is_exact = True  # type: ignore[misc]
    assert copying.computing_models == [policy]
    copying.reference = reference  # type: ignore[assignment]
    assert copying.computing_models == [policy, reference]
