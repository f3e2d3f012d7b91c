"""The optimizer and its learning-rate schedule."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from laser_lightning.errors import UserError
from laser_lightning.policy.master_weights import HALF_PRECISION, MasterWeights


@dataclass(frozen=True)
class OptimizerSettings:
    """How gradients change weights.

    Args:
        learning_rate: the rate after the warm-up.
        weight_decay: weight decay of matrices, decoupled in AdamW; vectors (norms, biases) are not decayed.
        betas: AdamW's decay rates of the two moments.
        eps: AdamW's term in the denominator.
        warmup_steps: optimizer steps over which the rate rises linearly, the first of them at 1 / (warmup_steps + 1).
        schedule: what follows the warm-up; ``linear`` and ``cosine`` fall to 0 at ``trainer.max_steps``.
        max_grad_norm: gradients of a larger total norm are scaled down to it; null for no limit.
        algorithm: ``adamw``, or ``sgd`` (for tests of exactness, where AdamW would amplify rounding).
        master_weights: step float32 copies of weights in bfloat16 or float16 (4 bytes more for each weight). Without
            them most steps are rounded away. DeepSpeed keeps copies of its own, whatever is set here.
    """

    learning_rate: float = 1e-6
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    max_grad_norm: float | None = 1.0
    algorithm: Literal["adamw", "sgd"] = "adamw"
    master_weights: bool = True

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise UserError(f"optimizer.learning_rate is {self.learning_rate}, and must be above 0.")
        if self.warmup_steps < 0:
            raise UserError(f"optimizer.warmup_steps is {self.warmup_steps}, and must be 0 or more.")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise UserError("optimizer.max_grad_norm must be above 0, or null for no limit.")


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    settings: OptimizerSettings,
    on_host: bool = False,
    strategy_copies: bool = False,
) -> Optimizer:
    """The optimizer of the trainable parameters.

    Args:
        parameters: all parameters, in the types that they are trained in.
        settings: algorithm and its numbers.
        on_host: whether DeepSpeed keeps states and step in host memory, for which it has an AdamW of its own.
        strategy_copies: whether the strategy itself keeps float32 copies of what it is to step.

    Raises:
        UserError: if float16 weights would be stepped themselves.
    """
    trainable = [p for p in parameters if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if _is_matrix(p)], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]

    def make(groups: list[dict[str, Any]]) -> Optimizer:
        if settings.algorithm == "sgd":
            return SGD(groups, lr=settings.learning_rate)
        if on_host:
            from deepspeed.ops.adam import DeepSpeedCPUAdam

            return DeepSpeedCPUAdam(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps)
        return AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps)

    half = {p.dtype for p in trainable if p.dtype in HALF_PRECISION}
    if strategy_copies or not half:
        return make(groups)
    if settings.master_weights:
        return MasterWeights(groups, make)
    if torch.float16 in half:
        raise UserError(
            "optimizer.master_weights is false, and the weights are float16, in which AdamW's eps is 0 and weights "
            "become infinite: set it to true, or policy.dtype to float32 with trainer.precision bf16-mixed."
        )
    rank_zero_warn(
        "optimizer.master_weights is false, and the weights are bfloat16: most steps at a small learning rate are "
        "rounded away, and the model learns little. Set it to true, or policy.dtype to float32 with trainer.precision "
        "bf16-mixed."
    )
    return make(groups)


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
        UserError: if a falling schedule has no last step, or a warm-up that is longer than the run.
    """
    if settings.schedule != "constant":
        if max_steps < 0:
            raise UserError(f"optimizer.schedule is '{settings.schedule}', which needs trainer.max_steps to be set.")
        if max_steps < settings.warmup_steps:
            raise UserError(
                f"optimizer.schedule is '{settings.schedule}', and optimizer.warmup_steps = {settings.warmup_steps} is "
                f"more than trainer.max_steps = {max_steps}, so the rate would never fall."
            )
    return LambdaLR(optimizer, lambda step: rate_factor(step, settings, max_steps))


def rate_factor(step: int, settings: OptimizerSettings, max_steps: int) -> float:
    """The share of ``learning_rate`` at optimizer step ``step``, counted from 0; never 0 before the last step."""
    warmup = settings.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, max_steps - warmup))
    return 1.0 - done if settings.schedule == "linear" else (1.0 + math.cos(math.pi * done)) / 2
