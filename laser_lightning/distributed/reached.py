"""Which parameters a backward pass reaches, for strategies that wait for the gradients of all of them."""

from collections.abc import Iterable
from functools import partial

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn


class ReachedParameters:
    """Hands DDP a gradient of 0 for what the last micro-batch of a step did not reach on this rank.

    DDP averages gradients once the last backward pass has reached all parameters, and waits for ever for one that it
    does not: an expert that no token visits, a part of the model for images, a head whose loss has not begun. Those
    that earlier micro-batches, or other ranks, did reach have a gradient all the same:

                      router   expert 0   expert 1   expert 2
        rank 0, 1st     *         *                                 * a backward pass reaches it
        rank 0, last    *         0          *          0           0 filled in, and added to what is there
        rank 1, last    *         *          0          0
        behind it      mean      mean       mean       None         averaged over the ranks

    A parameter that none has reached is left without a gradient, so that the optimizer passes over it, as with one
    process.

    Args:
        parameters: with their names, the same on all ranks.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
        self._names, self._parameters = [name for name, _ in named], [parameter for _, parameter in named]
        self._reached: set[int] = set()
        self._told = False
        for number, parameter in enumerate(self._parameters):
            parameter.register_post_accumulate_grad_hook(partial(self._note, number))

    def _note(self, number: int, _: Tensor) -> None:
        self._reached.add(number)

    def begin_pass(self) -> None:
        """Before the backward pass of the step's last micro-batch."""
        self._reached.clear()

    def complete_pass(self) -> None:
        """Behind it: let DDP average, and take back what no rank has reached; all ranks call it together."""
        has_gradient = torch.tensor([p.grad is not None for p in self._parameters], dtype=torch.int32)
        missing = [p for number, p in enumerate(self._parameters) if number not in self._reached]
        if missing:
            torch.autograd.backward(missing, [torch.zeros_like(p) for p in missing])
        has_gradient = has_gradient.to(self._parameters[0].device)
        torch.distributed.all_reduce(has_gradient, torch.distributed.ReduceOp.MAX)
        nobodys = [number for number, has in enumerate(has_gradient.tolist()) if not has]
        for number in nobodys:
            self._parameters[number].grad = None
        if nobodys and not self._told:
            self._told = True
            rank_zero_info(
                f"{len(nobodys)} of the {len(self._parameters)} trained tensors, such as {self._names[nobodys[0]]}, "
                "had no part in this optimizer step on any process: they stay as they are until they have."
            )
