"""What Lightning's half precision must not touch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Around a step: numbers beside the model are float32, whatever its weights are.

    In every step of ``precision: bf16-true`` Lightning makes bfloat16 the dtype of all tensors for which none is named,
    and of every quotient of integers: of 6,006 tokens 6,016 would be counted, and step 257 would be logged as 256.
    """
    before = torch.get_default_dtype()
    if before in (torch.bfloat16, torch.float16):
        torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def precision_of_steps(precision: Precision) -> Iterator[None]:
    """Around passes outside of the trainer's steps: computed as those of a step are.

    Lightning enters its precision around ``training_step``, ``validation_step`` and the like, and around no other hook.

    Args:
        precision: the strategy's.
    """
    with precision.forward_context(), float32_by_default():
        yield


def gradient_scale(precision: Precision) -> float | None:
    """What float16's gradients are multiplied by at present; None where they are those of the loss itself.

    Args:
        precision: the strategy's.
    """
    scaler = _scaler(precision)
    return None if scaler is None else float(scaler.get_scale())


@contextmanager
def unscaled(precision: Precision, optimizer: Optimizer) -> Iterator[None]:
    """Around clipping and step: gradients are those of the loss, and not of the loss times float16's loss scale.

    ``trainer.precision: 16-mixed`` multiplies the loss, so that small gradients do not become 0. Lightning would divide
    only within the optimizer's step, behind clipping. Behind the step, taken or not, the scale falls if a gradient was
    infinite, and rises after many steps in which none was.

    Args:
        precision: the strategy's.
        optimizer: whose gradients are divided, in place.
    """
    scaler = _scaler(precision)
    if scaler is None:
        yield
        return
    assert isinstance(precision, MixedPrecision)
    scaler.unscale_(optimizer)
    precision.scaler = None  # in here the plugin has nothing to do but step
    try:
        yield
    finally:
        precision.scaler = scaler
    scaler.update()


def _scaler(precision: Precision) -> GradScaler | None:
    return precision.scaler if isinstance(precision, MixedPrecision) else None
