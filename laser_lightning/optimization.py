"""The optimizer and its learning-rate schedule."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from laser_lightning.errors import UserError


@dataclass(frozen=True)
class OptimizerSettings:
    """How gradients change weights.

    Args:
        learning_rate: the rate after the warm-up.
        weight_decay: decoupled weight decay of matrices; vectors (norms, biases) are not decayed.
        betas: AdamW's decay rates of the two moments.
        eps: AdamW's term in the denominator.
        warmup_steps: optimizer steps over which the rate rises linearly from 0.
        schedule: what follows the warm-up; ``linear`` and ``cosine`` fall to 0 at ``trainer.max_steps``.
        max_grad_norm: gradients of a larger total norm are scaled down to it; null for no limit.
        algorithm: ``adamw``, or ``sgd`` (for tests of exactness, where AdamW would amplify rounding).
    """

    learning_rate: float = 1e-6
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    max_grad_norm: float | None = 1.0
    algorithm: Literal["adamw", "sgd"] = "adamw"

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise UserError(f"optimizer.learning_rate is {self.learning_rate}, and must be above 0.")
        if self.warmup_steps < 0:
            raise UserError(f"optimizer.warmup_steps is {self.warmup_steps}, and must be 0 or more.")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise UserError("optimizer.max_grad_norm must be above 0, or null for no limit.")


def build_optimizer(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> Optimizer:
    """The optimizer of the trainable parameters."""
    trainable = [p for p in parameters if p.requires_grad]
    if settings.algorithm == "sgd":
        return SGD(trainable, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    groups = [
        {"params": [p for p in trainable if _is_matrix(p)], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps)


def _is_matrix(parameter: nn.Parameter) -> bool:
    # Sharded by ZeRO-3, a parameter is an empty vector that remembers its shape.
    return len(getattr(parameter, "ds_shape", parameter.shape)) >= 2


def build_schedule(optimizer: Optimizer, settings: OptimizerSettings, max_steps: int) -> LRScheduler:
    """The learning-rate schedule, stepped once per optimizer step.

    Args:
        optimizer: whose rate it sets.
        settings: warm-up and shape.
        max_steps: last optimizer step, needed by the schedules that fall; -1 if there is none.

    Raises:
        UserError: if a falling schedule has no last step, or the warm-up is longer than the run.
    """
    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    if settings.schedule != "constant":
        if max_steps < 0:
            raise UserError(
                f"optimizer.schedule is '{settings.schedule}', which needs trainer.max_steps to be set."
            )
        if settings.warmup_steps > max_steps:
            raise UserError(
                f"optimizer.warmup_steps = {settings.warmup_steps} is more than trainer.max_steps = {max_steps}."
            )
    return get_scheduler(
        name, optimizer, num_warmup_steps=settings.warmup_steps, num_training_steps=max_steps
    )
