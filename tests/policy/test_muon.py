"""Muon on matrices with AdamW on the rest: the steps of torch's own two optimizers."""

from collections.abc import Iterable
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import ExponentialLR

from laser_lightning.policy.muon import MuonWithAdamW

ARGUMENTS: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-7}


def parameters() -> dict[str, nn.Parameter]:
    """An embedding, a wide and a tall matrix, and a norm."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"embedding": (7, 4), "wide": (4, 6), "tall": (6, 4), "norm": (4,)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def groups(held: dict[str, nn.Parameter]) -> list[dict[str, Any]]:
    return [
        {"params": [held["wide"], held["tall"]], "kind": "matrix"},
        {"params": [held["embedding"]], "kind": "embedding"},
        {"params": [held["norm"]], "kind": "vector", "weight_decay": 0.0},
    ]


def set_gradients(held: Iterable[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in held:
        p.grad = torch.randn(p.shape, generator=generator)


def test_two_steps_are_those_of_torchs_own_optimizers_run_apart() -> None:
    ours, theirs = parameters(), parameters()
    optimizer = MuonWithAdamW(groups(ours), momentum=0.9, ns_steps=3, **ARGUMENTS)
    muon = Muon(
        [theirs["wide"], theirs["tall"]],
        lr=0.02,
        weight_decay=0.1,
        momentum=0.9,
        ns_steps=3,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = AdamW([{"params": [theirs["embedding"]]}, {"params": [theirs["norm"]], "weight_decay": 0.0}], **ARGUMENTS)
    schedules = [ExponentialLR(it, 0.5) for it in (optimizer, muon, adamw)]
    for seed in (1, 2):
        set_gradients(ours.values(), seed)
        set_gradients(theirs.values(), seed)
        for it in (optimizer, muon, adamw):
            it.step()
        for schedule in schedules:
            schedule.step()  # the rate of both parts follows
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), (name, seed)
            assert not torch.equal(ours[name], parameters()[name])
    optimizer.zero_grad()
    assert all(p.grad is None for p in ours.values())


def test_parameters_without_a_kind_are_told_apart_by_their_dimensions() -> None:
    held = parameters()
    optimizer = MuonWithAdamW(held.values())
    split = [[tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups]
    assert split == [[(7, 4), (4, 6), (6, 4)], [(4,)]]


@pytest.mark.parametrize("names", [["wide"], ["norm"]])
def test_one_of_the_two_may_have_nothing_to_do(names: list[str]) -> None:
    held = [parameters()[name] for name in names]
    before = [p.detach().clone() for p in held]
    optimizer = MuonWithAdamW(held)
    set_gradients(held, 1)
    optimizer.step()
    assert all(not torch.equal(p, old) for p, old in zip(held, before, strict=True))


def test_a_saved_optimizer_goes_on_bit_for_bit() -> None:
    whole, resumed = parameters(), parameters()
    optimizer = MuonWithAdamW(groups(whole), **ARGUMENTS)
    for seed in (1, 2):
        set_gradients(whole.values(), seed)
        optimizer.step()
    file = BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    with torch.no_grad():
        for name, p in resumed.items():
            p.copy_(whole[name])
    later = MuonWithAdamW(groups(resumed), lr=5.0)  # what was saved takes the place of what is given
    later.load_state_dict(torch.load(file, weights_only=True))
    for held, it in ((whole, optimizer), (resumed, later)):
        set_gradients(held.values(), 3)
        it.step()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert later.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert len(later.state_dict()["state"]) == 4
