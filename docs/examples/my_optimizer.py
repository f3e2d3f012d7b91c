"""Lion (arXiv 2302.06675): steps of one size in the direction of a momentum's sign."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """Moves each weight by the learning rate, up or down; half the memory of AdamW.

    Args:
        params: groups of parameters.
        lr: the size of a step; a third to a tenth of AdamW's.
        momentum: how much of the gradients before stays in the momentum.
        interpolation: how much of the momentum is in the direction of a step.
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.99, interpolation: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "interpolation": interpolation})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    before = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                    direction = before.lerp(weight.grad, 1 - group["interpolation"])
                    weight.add_(direction.sign(), alpha=-group["lr"])
                    before.lerp_(weight.grad, 1 - group["momentum"])
        return loss
