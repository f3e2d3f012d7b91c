"""Optimizers and schedules by class path: what they are given, what is refused, and how a checkpoint holds them."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adafactor, Muon, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

from laser_lightning.arguments import NotPlain, made_from, plain_form
from laser_lightning.errors import UserError
from laser_lightning.modules.optimization import OptimizerSettings, build_optimizer, build_schedule
from laser_lightning.policy.master_weights import MasterWeights
from laser_lightning.policy.muon import MuonWithAdamW


class Whole(SGD):
    """An optimizer that says that it needs its matrices in one piece."""

    needs_matrices = True


class Late(Optimizer):
    """An optimizer whose second argument is another one."""

    def __init__(self, params: Any, momentum: float, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})


@pytest.fixture
def model() -> nn.ModuleDict:
    """An embedding, a matrix, vectors, a convolution, and a frozen part."""
    parts = {"embedding": nn.Embedding(5, 3), "linear": nn.Linear(3, 2), "convolution": nn.Conv1d(2, 2, 3, bias=False)}
    model = nn.ModuleDict({**parts, "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    return model


def build(model: nn.ModuleDict, algorithm: Any, **options: Any) -> Optimizer:
    settings = OptimizerSettings(learning_rate=0.1, algorithm=algorithm)
    return build_optimizer(model.parameters(), settings, embeddings=model["embedding"].parameters(), **options)


def test_a_class_gets_groups_by_kind_and_the_learning_rate(model: nn.ModuleDict) -> None:
    optimizer = build(model, partial(SGD, momentum=0.5, weight_decay=0.3))
    assert isinstance(optimizer, SGD)
    found = {group["kind"]: [tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups}
    assert found == {"matrix": [(2, 3)], "embedding": [(5, 3)], "vector": [(2,)], "tensor": [(2, 2, 3)]}
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"]) == (0.1, 0.5)
        assert group["weight_decay"] == (0.0 if group["kind"] == "vector" else 0.3)


def test_a_class_may_be_given_as_it_is_or_by_a_function(model: nn.ModuleDict) -> None:
    assert type(build(model, Whole)) is Whole
    assert type(build(model, lambda groups, rate: Whole(groups, lr=rate / 2))) is Whole


def test_the_default_has_the_groups_that_it_had(model: nn.ModuleDict) -> None:
    optimizer = build_optimizer(model.parameters(), OptimizerSettings(), embeddings=model["embedding"].parameters())
    assert [[tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups] == [
        [(5, 3), (2, 3), (2, 2, 3)],
        [(2,)],
    ]
    assert all("kind" not in group for group in optimizer.param_groups)  # checkpoints are as they were


def test_copies_in_float32_are_what_is_stepped() -> None:
    weights = [nn.Parameter(torch.ones(4, 3).bfloat16()), nn.Parameter(torch.ones(3).bfloat16())]
    twins = [nn.Parameter(weight.detach().float()) for weight in weights]
    settings = OptimizerSettings(learning_rate=1e-5, algorithm=MuonWithAdamW)
    optimizer, twin = build_optimizer(weights, settings), build_optimizer(twins, settings)
    assert isinstance(optimizer, MasterWeights)
    assert isinstance(optimizer.inner, MuonWithAdamW)
    for step in range(3):
        if step == 2:  # a resumed run's
            saved, optimizer = optimizer.state_dict(), build_optimizer(weights, settings)
            optimizer.load_state_dict(saved)
        for weight, other in zip(weights, twins, strict=True):
            other.grad = torch.full_like(other, 0.5) * (step + 1)
            weight.grad = other.grad.bfloat16()
        for it in (optimizer, twin):
            it.step()
            it.zero_grad()
    assert isinstance(optimizer, MasterWeights)
    for (_, copy), other in zip(optimizer.pairs, twins, strict=True):
        assert torch.equal(copy, other)
        assert not torch.equal(copy, torch.ones_like(copy))


@pytest.mark.parametrize("algorithm", [Muon, partial(Adafactor, eps=(None, 1e-3)), MuonWithAdamW, Whole])
def test_what_needs_matrices_is_refused_under_zero(model: nn.ModuleDict, algorithm: Any) -> None:
    with pytest.raises(UserError, match=r"algorithm is \w+, which steps matrices as a whole, .*use strategy/ddp"):
        build(model, algorithm, strategy_copies=True)


def test_a_function_is_asked_by_what_it_makes(model: nn.ModuleDict) -> None:
    with pytest.raises(UserError, match="algorithm is Whole, which steps matrices as a whole"):
        build(model, lambda groups, rate: Whole(groups, lr=rate), strategy_copies=True)


def test_what_steps_number_by_number_is_taken_under_zero(model: nn.ModuleDict) -> None:
    assert type(build(model, SGD, strategy_copies=True)) is SGD


@pytest.mark.parametrize("algorithm", ["sgd", SGD, lambda groups, rate: SGD(groups, rate)])
def test_only_adamw_steps_on_the_host(model: nn.ModuleDict, algorithm: Any) -> None:
    with pytest.raises(UserError, match=r"offload_optimizer.* set optimizer\.algorithm to adamw"):
        build(model, algorithm, on_host=True, strategy_copies=True)


@pytest.mark.parametrize(
    ("algorithm", "why"),
    [(LBFGS, "computes the loss several times"), (partial(Late, lr=1.0), "second argument is momentum")],
)
def test_what_cannot_step_here_is_refused(model: nn.ModuleDict, algorithm: Any, why: str) -> None:
    with pytest.raises(UserError, match=why):
        build(model, algorithm)


@pytest.mark.parametrize("fields", [{"weight_decay": 0.1}, {"betas": (0.9, 0.95)}, {"eps": 1e-6}])
def test_fields_of_adamw_beside_a_class_are_refused(fields: dict[str, Any]) -> None:
    name = next(iter(fields))
    with pytest.raises(UserError, match=rf"optimizer\.{name} is for algorithm 'adamw': give SGD what it takes in alg"):
        OptimizerSettings(algorithm=partial(SGD, momentum=0.5), **fields)


def rates(schedule: Any, warmup_steps: int, steps: int) -> list[float]:
    settings = OptimizerSettings(learning_rate=0.4, warmup_steps=warmup_steps, schedule=schedule)
    optimizer = build_optimizer([parameter := nn.Parameter(torch.zeros(2, 2))], settings)
    built = build_schedule(optimizer, settings, max_steps=-1)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        parameter.grad = torch.zeros(2, 2)
        optimizer.step()
        built.step()
    return values


def test_a_schedule_by_class_by_hand() -> None:
    # (1 + cos(pi * step / 4)) / 2 of the rate.
    half = 0.5**0.5
    expected = [0.4, 0.2 * (1 + half), 0.2, 0.2 * (1 - half), 0.0]
    assert rates(partial(CosineAnnealingLR, T_max=4), 0, 5) == pytest.approx(expected, abs=1e-9)


def test_a_schedule_by_class_starts_behind_the_warm_up_by_hand() -> None:
    # 1/4, 2/4, 3/4 of the rate; and then a tenth of it after every second step.
    expected = [0.1, 0.2, 0.3, 0.4, 0.4, 0.04, 0.04, 0.004]
    assert rates(partial(StepLR, step_size=2, gamma=0.1), 3, 8) == pytest.approx(expected)


def test_a_schedule_goes_on_where_it_was_saved() -> None:
    settings = OptimizerSettings(warmup_steps=2, schedule=partial(StepLR, step_size=2, gamma=0.1), algorithm="sgd")
    seen: list[list[Tensor | float]] = []
    for saved_at in (None, 1, 4):
        optimizer = build_optimizer([parameter := nn.Parameter(torch.zeros(1))], settings)
        schedule = build_schedule(optimizer, settings, -1)
        values = []
        for step in range(7):
            if step == saved_at:
                states = optimizer.state_dict(), schedule.state_dict()
                optimizer = build_optimizer([parameter], settings)
                schedule = build_schedule(optimizer, settings, -1)
                optimizer.load_state_dict(states[0])
                schedule.load_state_dict(states[1])
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        seen.append(values)
    assert seen[0] == seen[1] == seen[2]


def test_a_schedule_that_asks_for_a_metric_is_refused() -> None:
    with pytest.raises(UserError, match="ReduceLROnPlateau, which looks at a metric"):
        rates(ReduceLROnPlateau, 0, 1)


def test_a_checkpoint_holds_class_and_arguments() -> None:
    settings = OptimizerSettings(
        algorithm=partial(SGD, momentum=0.5), schedule=partial(StepLR, step_size=2), learning_rate=0.1
    )
    form = plain_form(settings)
    assert form["init_args"]["algorithm"] == {"class_path": "torch.optim.sgd.SGD", "init_args": {"momentum": 0.5}}
    again = made_from(form)
    assert again.algorithm.func is SGD
    assert again.algorithm.keywords == {"momentum": 0.5}
    assert again.schedule.func is StepLR
    assert plain_form(again) == form
    # In the parser's form the class is the last argument of a function; a class alone has no arguments.
    assert plain_form(partial(isinstance, SGD, momentum=0.5)) == form["init_args"]["algorithm"]
    assert plain_form(SGD) == {"class_path": "torch.optim.sgd.SGD", "init_args": {}}
    with pytest.raises(NotPlain, match="partial"):
        plain_form(partial(int, base=2))
