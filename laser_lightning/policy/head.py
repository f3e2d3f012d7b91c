"""The head's product in float32, also where weights or passes are in half precision."""

from typing import Any

import torch
from torch import Tensor, nn

HALF_PRECISION = (torch.bfloat16, torch.float16)

WEIGHTS_AT_ONCE = 2**20
"""Weights in half precision that are held in float32 at a time, few enough to stay in the cache of a CPU."""


def float32_logits(head: nn.Module, hidden: Tensor) -> Tensor:
    """Float32 logits of a head whose product is rounded nowhere to half precision, under autocast neither.

    log pi(z) lies at -13 to -25, where the numbers of bfloat16 are 1/16 to 1/8 apart. Weights in half precision are
    multiplied as they are, and summed up in float32; no copy of all of them is made. A head of half precision that is
    no plain linear layer computes as it would in the model.

    Args:
        head: the output embedding of a model.
        hidden: [..., D] hidden states.

    Returns:
        [..., V], in memory of their own; float64 where the weights are.
    """
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    is_half = weight is not None and weight.dtype in HALF_PRECISION
    if weight is None or (is_half and type(head).forward is not nn.Linear.forward):
        return head.forward(hidden).float()
    with torch.autocast(hidden.device.type, enabled=False):
        if not is_half:
            return head.forward(hidden.to(weight.dtype))
        logits = _Float32Product.apply(hidden.flatten(0, -2), weight).unflatten(0, hidden.shape[:-1])
        return logits if bias is None else logits + bias


class _Float32Product(torch.autograd.Function):
    """Hidden states [T, D] times weights [V, D] in half precision: [T, V] in float32.

    CUDA has a product of half precision whose sums stay in float32, as fast as the usual one; its backward pass rounds
    the gradient of the logits to the weights' type, as that of the usual one does. Elsewhere the weights become float32
    block by block.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        if _is_multiplied_by_cuda(hidden, weight):
            return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
        logits = hidden.new_empty(len(hidden), len(weight), dtype=torch.float32)
        states = hidden.float()
        for part in _parts(weight):
            torch.mm(states, weight[part].float().t(), out=logits[:, part])
        return logits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        of_hidden, of_weight = ctx.needs_input_grad
        if _is_multiplied_by_cuda(hidden, weight):
            rounded = gradient.to(weight.dtype)
            return rounded @ weight if of_hidden else None, rounded.t() @ hidden if of_weight else None
        states = hidden.float()
        hidden_gradient = torch.zeros_like(states) if of_hidden else None
        weight_gradient = torch.empty_like(weight) if of_weight else None
        for part in _parts(weight):
            if hidden_gradient is not None:
                hidden_gradient.addmm_(gradient[:, part], weight[part].float())
            if weight_gradient is not None:
                weight_gradient[part] = gradient[:, part].t() @ states
        return None if hidden_gradient is None else hidden_gradient.to(hidden.dtype), weight_gradient


def _is_multiplied_by_cuda(hidden: Tensor, weight: Tensor) -> bool:
    return hidden.is_cuda and torch.version.hip is None and hidden.dtype == weight.dtype


def _parts(weight: Tensor) -> list[slice]:
    """Rows of the weights [V, D] that become float32 together."""
    rows = max(1, WEIGHTS_AT_ONCE // weight.shape[1])
    return [slice(start, start + rows) for start in range(0, len(weight), rows)]
