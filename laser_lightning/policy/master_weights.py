"""Float32 copies of weights in half precision, which an optimizer steps in their place."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from laser_lightning.policy.head import HALF_PRECISION

COPIES = "master_weights"
"""Key of the copies in the state dict."""


class MasterWeights(Optimizer):
    """Steps float32 copies of bfloat16 and float16 weights, and rounds the copies into the weights.

    A step of AdamW at a learning rate of 1e-6 moves a weight by about 1e-6, while the bfloat16 numbers beside 0.02 are
    1.2e-4 away: nearly every step would be rounded away. In a copy steps add up until they reach the next number.

    Weights of other types are stepped themselves. ``param_groups`` and ``state`` are those of the inner optimizer, and
    hold the copies; ``collect_gradients`` gives these their gradients, so that norms are taken in float32.

    Args:
        groups: parameter groups of the weights, as for a torch optimizer.
        make: builds the inner optimizer from the groups of the copies.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], make: Callable[[list[dict[str, Any]]], Optimizer]) -> None:
        self.pairs: list[tuple[nn.Parameter, nn.Parameter]] = []  # weight and copy
        copied = [{**group, "params": [self._copy(weight) for weight in group["params"]]} for group in groups]
        self.inner = make(copied)
        super().__init__(self.inner.param_groups, self.inner.defaults)
        self._share()

    def _copy(self, weight: nn.Parameter) -> nn.Parameter:
        if weight.dtype not in HALF_PRECISION:
            return weight
        copy = nn.Parameter(weight.detach().float())
        self.pairs.append((weight, copy))
        return copy

    def _share(self) -> None:
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Move the gradients of the weights to the copies, adding to what is there."""
        for weight, copy in self.pairs:
            if weight.grad is not None:
                gradient = weight.grad.float()
                copy.grad = gradient if copy.grad is None else copy.grad + gradient
                weight.grad = None

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Step the copies, and round them into the weights.

        Args:
            closure: computes the gradients; its value is returned.
        """
        loss = None if closure is None else closure()
        self.collect_gradients()
        self.inner.step()
        with torch.no_grad():
            for weight, copy in self.pairs:
                weight.copy_(copy)
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of weights and copies."""
        self.inner.zero_grad(set_to_none)
        for weight, _ in self.pairs:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's, and the copies."""
        return {**self.inner.state_dict(), COPIES: [copy.detach() for _, copy in self.pairs]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the inner optimizer and the copies; without saved ones those of the weights stay, with a warning.

        Where another strategy wrote the checkpoint, they are functions that read one, by the number of the weight.
        """
        copies: list[Tensor] | Mapping[int, Callable[[], Tensor]] | None = state_dict.get(COPIES)
        self.inner.load_state_dict({name: value for name, value in state_dict.items() if name != COPIES})
        self._share()
        if copies is None:
            rank_zero_warn(
                "The checkpoint has no float32 copies of the weights: they start from the weights, rounded to their "
                "type, so the next steps are not those that the run would have taken."
            )
            return
        if isinstance(copies, Mapping):
            own = {id(copy) for _, copy in self.pairs}
            stepped = [p for group in self.param_groups for p in group["params"]]
            copies = [copies[number]() for number, p in enumerate(stepped) if id(p) in own]
        for (_, copy), saved in zip(self.pairs, copies, strict=True):
            copy.copy_(saved)
