"""A probe on the hidden state: score, loss and gradients by hand, and what becomes of it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning import HybridTarget, ProbeSelfReward, Readings, StepSolutions, Supervision
from laser_lightning.errors import UserError
from laser_lightning.objective.self_reward.settings import SelfRewardSettings

NOTHING = torch.full((3, 1), torch.nan)
# relu(x + 2 y), in units of 1 and 3 behind it.
STATES = torch.tensor([[1.0, 1.0], [1.0, -1.0], [torch.nan, torch.nan]])
LOG3 = math.log(3)


def probe(**options: Any) -> ProbeSelfReward:
    head = ProbeSelfReward("<|reward|>", width=1, **options)
    head.build(2)
    with torch.no_grad():
        head.hidden_layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
        head.hidden_layer.bias.zero_()
        head.output_layer.weight.fill_(2 * LOG3 / 3)
        head.output_layer.bias.fill_(-LOG3)
    return head


def test_the_score_by_hand() -> None:
    # Units relu(3) = 3 and relu(-1) = 0: logits 2 log 3 - log 3 and -log 3.
    scores = probe().score(Readings(NOTHING, STATES))
    torch.testing.assert_close(scores, torch.tensor([0.75, 0.25, torch.nan]), equal_nan=True)


@pytest.mark.parametrize("half_weights", [False, True])
def test_nothing_is_rounded_to_bfloat16(half_weights: bool) -> None:
    # 257 needs nine bits, and bfloat16 has eight: units of 257 and 1, logits 257 - 256 = 1 and 1 - 256.
    head = probe()
    with torch.no_grad():
        head.hidden_layer.weight.copy_(torch.tensor([[1.0, 1.0]]))
        head.output_layer.weight.fill_(1.0)
        head.output_layer.bias.fill_(-256.0)
    head = head.bfloat16() if half_weights else head
    states = torch.tensor([[256.0, 1.0], [1.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        scores = head.score(Readings(NOTHING[:2], states))
        loss = head.loss(Readings(NOTHING[:2], states), Supervision(torch.tensor([1.0, 0.0]), torch.ones(2)))
    assert scores.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(scores[0], torch.tensor(1 / (1 + math.exp(-1))))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))
    loss.backward()
    assert head.output_layer.bias.grad is not None


def test_it_says_one_half_at_first() -> None:
    head = ProbeSelfReward("<|reward|>")
    head.build(2)
    assert head.score(Readings(NOTHING, STATES))[:2].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("trains_policy", [False, True])
def test_loss_and_gradient_by_hand(trains_policy: bool) -> None:
    states = STATES.clone().requires_grad_()
    head = probe(trains_policy=trains_policy)
    # A target above 1 counts as 1. Probabilities 3/4 and 1/4: 2 log(4/3) - log(3/4) / 1.
    supervision = Supervision(torch.tensor([7.0, 0.0, 0.0]), torch.tensor([2.0, 1.0, 0.0]))
    loss = head.loss(Readings(NOTHING, states), supervision)
    assert loss.item() == pytest.approx(3 * math.log(4 / 3))
    loss.backward()
    # By the logits w (p - t): -1/2 and 1/4.
    assert head.output_layer.bias.grad is not None
    assert head.output_layer.bias.grad.item() == pytest.approx(-0.25)
    assert head.output_layer.weight.grad is not None
    assert head.output_layer.weight.grad.item() == pytest.approx(-1.5)
    if not trains_policy:
        assert states.grad is None
        return
    assert states.grad is not None
    expected = -LOG3 / 3 * torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(states.grad, expected)


def test_targets_and_weights_are_parts(step_solutions: Callable[..., StepSolutions]) -> None:
    supervision = probe(target=HybridTarget(0.5)).supervise(step_solutions(torch.tensor([[1.0, 0.0, 0.0, 0.0]])))
    assert supervision.targets.tolist() == [0.625, 0.125, 0.125, 0.125]
    assert supervision.weights.tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"self_reward\.width is 0"):
        ProbeSelfReward("<|reward|>", width=0)
    with pytest.raises(UserError, match=r"no form for a self-reward of the class ProbeSelfReward: set `export: null`"):
        SelfRewardSettings.of(probe(), step=1)
