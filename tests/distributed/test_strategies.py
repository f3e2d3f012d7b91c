"""What training asks of a strategy: who answers, and what one device answers."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)
from torch import Tensor, nn

from laser_lightning.distributed import strategies, zero
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.distributed.strategies import (
    DirectSteps,
    LaSeRDDPStrategy,
    LaSeRDeepSpeedStrategy,
    OneDevice,
    TrainingStrategy,
    training_strategy,
)
from laser_lightning.distributed.watchdog import WatchedStrategy
from laser_lightning.errors import UserError
from laser_lightning.metrics import SelfVerification


@pytest.mark.parametrize("strategy", [None, SingleDeviceStrategy("cpu")])
def test_one_device_has_the_plain_answers(strategy: Strategy | None) -> None:
    found = training_strategy(strategy)
    assert type(found) is OneDevice
    assert (found.steps_on_host, found.keeps_float32_copies, found.shards_weights) == (False, False, False)
    layer = nn.Linear(2, 3)
    assert not found.gathers(layer)
    with found.part("update"), found.micro_step(last=False), found.gathered(layer):
        weights = found.whole_weights(layer)
    assert {name: value.data_ptr() for name, value in weights.items()} == {
        name: value.data_ptr() for name, value in layer.named_parameters()
    }


@pytest.mark.parametrize("strategy", [LaSeRDDPStrategy(), LaSeRDeepSpeedStrategy(stage=3)])
def test_the_packages_own_answer_for_themselves(strategy: Strategy) -> None:
    assert training_strategy(strategy) is strategy
    assert isinstance(strategy, WatchedStrategy)
    assert type(strategy).part is WatchedStrategy.part  # and not the one that tells nobody
    assert type(strategy).precision_plugin is Strategy.precision_plugin


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("offload", [False, True])
def test_what_deepspeed_answers(stage: int, offload: bool) -> None:
    found = training_strategy(LaSeRDeepSpeedStrategy(stage=stage, offload_optimizer=offload))
    layer = nn.Linear(2, 3)
    answers = (found.shards_weights, found.gathers(layer), found.steps_on_host, found.keeps_float32_copies)
    assert answers == (stage == 3, stage == 3, offload, True)
    assert found.writes_checkpoints
    with found.gathered(layer):  # its parameters are whole: nothing to gather, but once around all
        assert not found.gathers(layer)
        assert found.gathers(layer, nn.Linear(1, 1)) is (stage == 3)
    assert found.gathers(layer) is (stage == 3)


@pytest.mark.parametrize("make", [DDPStrategy, FSDPStrategy, DeepSpeedStrategy])
def test_lightnings_own_for_many_processes_are_refused(make: type[Strategy]) -> None:
    with pytest.raises(UserError, match=rf"trainer.strategy is {make.__name__}, .* `--config strategy/ddp`"):
        training_strategy(make())


def test_a_users_strategy_overrides_what_differs() -> None:
    told = []

    class Telling(DirectSteps, DDPStrategy):
        @contextmanager
        def micro_step(self, last: bool) -> Iterator[None]:
            told.append(last)
            yield

    strategy = training_strategy(Telling())
    with strategy.micro_step(True), strategy.part("update"):
        assert told == [True]


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = LightningOptimizer(torch.optim.SGD([weight], lr=0.1))
    found: TrainingStrategy = OneDevice(SingleDeviceStrategy("cpu"))
    optimizer.step = optimizer.optimizer.step  # type: ignore[method-assign]  # the loops of a trainer count it
    weight.grad = torch.tensor([torch.inf, 1.0])
    assert found.step_if_finite(optimizer, 1.0) == (torch.inf, False)
    assert weight.tolist() == [3.0, 4.0]
    assert weight.grad is None
    weight.grad = torch.tensor([6.0, 8.0])  # norm 10, clipped to 1: 0.6 and 0.8
    norm, stepped = found.step_if_finite(optimizer, 1.0)
    assert (norm, stepped) == (10.0, True)
    torch.testing.assert_close(weight.detach(), torch.tensor([2.94, 3.92]))


def test_names_of_version_0_1_are_the_same_methods() -> None:
    layer = nn.Linear(2, 3)
    strategies.check_strategy(None)
    assert not strategies.steps_on_host(None)
    assert not strategies.gathers(None, None, layer)
    with strategies.gathered(None, None, layer), strategies.micro_step(SingleDeviceStrategy("cpu"), True):
        assert strategies.whole_weights(None, layer).keys() == {"weight", "bias"}
    assert {"laser_ddp", "laser_zero1", "laser_zero2", "laser_zero3"} <= set(StrategyRegistry.available_strategies())


ELSEWHERE = torch.device("meta")  # stands for a GPU, which is not here


@pytest.mark.parametrize(("stage", "place"), [(3, "meta"), (2, "cpu")])
def test_zero3_places_what_deepspeed_does_not_shard(monkeypatch: pytest.MonkeyPatch, stage: int, place: str) -> None:
    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.metrics = SelfVerification(threshold=0.5)
            self.register_buffer("constant", torch.tensor(-16.0))

    class Here(LaSeRDeepSpeedStrategy):
        root_device = ELSEWHERE  # type: ignore[assignment]

    strategy, module = Here(stage=stage), Module()
    strategy._lightning_module = module
    # DeepSpeed's own part, which moves the module at stages 1 and 2 alone.
    monkeypatch.setattr(DeepSpeedStrategy, "setup", lambda self, trainer: None)
    monkeypatch.setattr(zero, "_set_pg_timeout", lambda *_: None)
    monkeypatch.setattr("deepspeed.utils.groups._get_data_parallel_group", lambda: None)
    strategy.setup(None)  # type: ignore[arg-type]
    assert (module.metrics.device.type, module.constant.device.type) == (place, place)


def test_sums_and_stacks_travel_on_the_device_of_the_rank() -> None:
    class Here(SingleDeviceStrategy):
        """Refuses, as NCCL does, what lies elsewhere."""

        world_size, global_rank = 1, 0

        def reduce(self, tensor: Tensor, *args: object, **kwargs: object) -> Tensor:  # type: ignore[override]
            assert tensor.device == ELSEWHERE
            return tensor

        def all_gather(self, tensor: Tensor, *args: object, **kwargs: object) -> Tensor:  # type: ignore[override]
            assert tensor.device == ELSEWHERE
            return tensor[None]

    ranks, values = Ranks(Here(ELSEWHERE)), torch.ones(3)
    assert ranks.sum(values).device == ELSEWHERE
    assert ranks.stack(values).shape == (1, 3)
