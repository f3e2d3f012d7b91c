"""Parameter groups, the learning rate step by step, and refusals."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from laser_lightning.errors import UserError
from laser_lightning.modules.optimization import OptimizerSettings, build_optimizer, build_schedule


@pytest.fixture
def model() -> nn.Module:
    """Matrices and vectors, and a frozen part."""
    model = nn.ModuleDict({"linear": nn.Linear(3, 2), "norm": nn.LayerNorm(2), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    return model


def rates(settings: OptimizerSettings, steps: int, max_steps: int = -1) -> list[float]:
    """The learning rate of each optimizer step."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    optimizer = build_optimizer([parameter], settings)
    schedule = build_schedule(optimizer, settings, max_steps)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        parameter.grad = torch.zeros(2, 2)
        optimizer.step()
        schedule.step()
    return values


def test_matrices_are_decayed_and_vectors_are_not(model: nn.Module) -> None:
    settings = OptimizerSettings(learning_rate=0.1, weight_decay=0.05, betas=(0.8, 0.9), eps=1e-7)
    optimizer = build_optimizer(model.parameters(), settings)
    assert isinstance(optimizer, AdamW)
    decayed, plain = optimizer.param_groups
    assert [p.shape for p in decayed["params"]] == [(2, 3)]
    assert [p.shape for p in plain["params"]] == [(2,), (2,), (2,)]  # bias; norm's weight and bias
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.1, (0.8, 0.9), 1e-7)


def test_frozen_parameters_stay_out(model: nn.Module) -> None:
    for algorithm in ("adamw", "sgd"):
        optimizer = build_optimizer(model.parameters(), OptimizerSettings(algorithm=algorithm))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        assert len(parameters) == 4
        assert all(p.requires_grad for p in parameters)


def test_a_model_of_matrices_alone_has_one_group() -> None:
    optimizer = build_optimizer([nn.Parameter(torch.zeros(2, 2))], OptimizerSettings())
    assert len(optimizer.param_groups) == 1


def test_decay_is_decoupled_by_hand() -> None:
    # With a gradient of 0 AdamW only decays: 2 * (1 - 0.1 * 0.5) = 1.9.
    parameter = nn.Parameter(torch.full((1, 1), 2.0))
    optimizer = build_optimizer([parameter], OptimizerSettings(learning_rate=0.1, weight_decay=0.5))
    parameter.grad = torch.zeros(1, 1)
    optimizer.step()
    assert parameter.item() == pytest.approx(1.9)


def test_sgd_by_hand() -> None:
    parameter = nn.Parameter(torch.full((1, 1), 2.0))
    settings = OptimizerSettings(learning_rate=0.1, weight_decay=0.0, algorithm="sgd")
    optimizer = build_optimizer([parameter], settings)
    assert isinstance(optimizer, SGD)
    parameter.grad = torch.full((1, 1), 3.0)
    optimizer.step()
    assert parameter.item() == pytest.approx(1.7)  # 2 - 0.1 * 3


@pytest.mark.parametrize("algorithm", ["adamw", "sgd"])
def test_warm_up_by_hand(algorithm: Any) -> None:
    # 3 steps of warm-up: 1/4, 2/4, 3/4 of the rate, and then the rate itself.
    settings = OptimizerSettings(learning_rate=0.3, warmup_steps=3, algorithm=algorithm)
    assert rates(settings, 6) == pytest.approx([0.075, 0.15, 0.225, 0.3, 0.3, 0.3])


def test_without_warm_up_the_rate_is_constant_from_the_first_step() -> None:
    assert rates(OptimizerSettings(learning_rate=0.3), 3) == pytest.approx([0.3, 0.3, 0.3])


def test_linear_by_hand() -> None:
    # 2 steps of warm-up at 1/3 and 2/3 of the rate, and then down to 0 over 4 steps.
    settings = OptimizerSettings(learning_rate=0.4, warmup_steps=2, schedule="linear")
    assert rates(settings, 7, max_steps=6) == pytest.approx([0.4 / 3, 0.8 / 3, 0.4, 0.3, 0.2, 0.1, 0.0])


def test_cosine_by_hand() -> None:
    # (1 + cos(pi * share)) / 2 of the rate, with shares 0, 1/4, 1/2, 3/4 and 1 of the way.
    settings = OptimizerSettings(learning_rate=0.4, warmup_steps=2, schedule="cosine")
    half = 0.5**0.5
    expected = [0.4 / 3, 0.8 / 3, 0.4, 0.2 * (1 + half), 0.2, 0.2 * (1 - half), 0.0]
    assert rates(settings, 7, max_steps=6) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_falling_schedule_needs_a_last_step(schedule: Any) -> None:
    with pytest.raises(UserError, match=rf"schedule is '{schedule}', which needs trainer\.max_steps"):
        rates(OptimizerSettings(schedule=schedule), 1)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_warm_up_longer_than_the_run_is_refused(schedule: Any) -> None:
    settings = OptimizerSettings(warmup_steps=11, schedule=schedule)
    with pytest.raises(UserError, match=r"warmup_steps = 11 .*max_steps = 10"):
        rates(settings, 1, max_steps=10)


def test_a_run_may_be_shorter_than_the_warm_up_of_a_constant_rate() -> None:
    # Who cuts a run short for a look should not have to change its schedule: 1/12 and 2/12 of the rate.
    settings = OptimizerSettings(learning_rate=1.2, warmup_steps=11)
    assert rates(settings, 2, max_steps=2) == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
        ({"max_grad_norm": -math.inf}, "max_grad_norm"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=rf"optimizer\.{named}"):
        OptimizerSettings(**fields)


def test_no_gradient_limit_is_a_choice() -> None:
    assert OptimizerSettings(max_grad_norm=None).max_grad_norm is None
