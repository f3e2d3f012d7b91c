"""The optimizer and its learning-rate schedule."""

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.optim import LBFGS, SGD, Adafactor, AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from laser_lightning.arguments import made_later
from laser_lightning.errors import UserError
from laser_lightning.policy.head import HALF_PRECISION
from laser_lightning.policy.master_weights import MasterWeights

Group = dict[str, Any]
OptimizerFactory = Callable[[list[Group], float], Optimizer]
"""Makes an optimizer from groups of parameters and a learning rate; in configs, the class path of one."""

ScheduleFactory = Callable[[Optimizer], LRScheduler]
"""Makes a schedule of an optimizer; in configs, the class path of one."""

OF_ADAMW = ("weight_decay", "betas", "eps")
"""The fields that other classes have as arguments of their own."""


@dataclass(frozen=True)
class OptimizerSettings:
    """How gradients change weights.

    Args:
        learning_rate: the rate after the warm-up, of whatever algorithm.
        weight_decay: weight decay of matrices, decoupled in AdamW; vectors (norms, biases) are not decayed.
        betas: AdamW's decay rates of the two moments.
        eps: AdamW's term in the denominator.
        warmup_steps: optimizer steps over which the rate rises linearly, the first of them at 1 / (warmup_steps + 1).
        schedule: what follows the warm-up; ``linear`` and ``cosine`` fall to 0 at ``trainer.max_steps``. Or the
            class_path of a schedule of torch's or yours, which starts behind the warm-up.
        max_grad_norm: gradients of a larger total norm are scaled down to it; null for no limit.
        algorithm: ``adamw``, or ``sgd`` (for tests of exactness, where AdamW would amplify rounding). Or the
            class_path of an optimizer of torch's or yours, which takes groups of parameters and the learning rate
            first, and what else it takes as init_args, its weight decay too.
        master_weights: step float32 copies of weights in bfloat16 or float16 (4 bytes more for each weight). Without
            them most steps are rounded away. DeepSpeed keeps copies of its own, whatever is set here.
    """

    learning_rate: float = 1e-6
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup_steps: int = 0
    schedule: Literal["constant", "linear", "cosine"] | ScheduleFactory = "constant"
    max_grad_norm: float | None = 1.0
    algorithm: Literal["adamw", "sgd"] | OptimizerFactory = "adamw"
    master_weights: bool = True

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise UserError(f"optimizer.learning_rate is {self.learning_rate}, and must be above 0.")
        if self.warmup_steps < 0:
            raise UserError(f"optimizer.warmup_steps is {self.warmup_steps}, and must be 0 or more.")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise UserError("optimizer.max_grad_norm must be above 0, or null for no limit.")
        if isinstance(self.algorithm, str):
            return
        for field in fields(self):
            if field.name in OF_ADAMW and getattr(self, field.name) != field.default:
                raise UserError(
                    f"optimizer.{field.name} is for algorithm 'adamw': give {_name(self.algorithm)} what it takes in "
                    f"algorithm.init_args, and leave optimizer.{field.name} at {field.default}."
                )


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    settings: OptimizerSettings,
    on_host: bool = False,
    strategy_copies: bool = False,
    embeddings: Iterable[nn.Parameter] = (),
) -> Optimizer:
    """The optimizer of the trainable parameters.

    An algorithm by class path gets up to four groups, each with a ``kind``: ``matrix``, ``embedding`` (the head's
    weights too), ``vector`` (norms and biases, with a ``weight_decay`` of 0) and ``tensor`` (of three dimensions and
    more).

    Args:
        parameters: all parameters, in the types that they are trained in.
        settings: algorithm and its numbers.
        on_host: whether DeepSpeed keeps states and step in host memory, for which it has an AdamW of its own.
        strategy_copies: whether the strategy itself, DeepSpeed, keeps float32 copies of what it is to step, and deals
            out all of them as one long vector.
        embeddings: those of the parameters that are embeddings, or the head.

    Raises:
        UserError: if float16 weights would be stepped themselves, or the algorithm cannot be had with the strategy.
    """
    trainable = [p for p in parameters if p.requires_grad]
    algorithm = settings.algorithm
    kind, _ = made_later(algorithm)
    if on_host and algorithm != "adamw" and not (kind and kind.__module__.startswith("deepspeed.ops.")):
        raise UserError(
            "trainer.strategy has offload_optimizer, with which DeepSpeed steps on the host by an AdamW of its own: "
            f"set optimizer.algorithm to adamw in place of {_name(algorithm)}, or leave offload_optimizer out."
        )
    if not isinstance(algorithm, str):
        check_algorithm(kind, strategy_copies)
        groups = _groups_by_kind(trainable, embeddings)
    else:
        groups = [
            {"params": [p for p in trainable if _is_matrix(p)], "weight_decay": settings.weight_decay},
            {"params": [p for p in trainable if not _is_matrix(p)], "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]

    def make(groups: list[Group]) -> Optimizer:
        if not isinstance(algorithm, str):
            optimizer = algorithm(groups, settings.learning_rate)
            check_algorithm(type(optimizer), strategy_copies)
            return optimizer
        if algorithm == "sgd":
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


def embedding_parameters(lm: Any) -> list[nn.Parameter]:
    """The weights of a causal LM's embeddings and head, which may be the same."""
    ends = (lm.get_input_embeddings(), lm.get_output_embeddings())
    return [p for module in ends if module is not None for p in module.parameters()]


def check_algorithm(kind: type | None, sharded: bool) -> None:
    """Refuse an optimizer that could not step here, or would do so in another way than its name says.

    Args:
        kind: its class; None if only the optimizer itself will tell.
        sharded: whether DeepSpeed cuts all parameters, as one long vector, into the shares of the processes.

    Raises:
        UserError: with the reason.
    """
    if kind is None:
        return
    if issubclass(kind, LBFGS):
        raise UserError(
            "optimizer.algorithm is LBFGS, which computes the loss several times in a step; here a step has its "
            "gradients once. Name another one."
        )
    if sharded and (issubclass(kind, Muon | Adafactor) or getattr(kind, "needs_matrices", False)):
        raise UserError(
            f"optimizer.algorithm is {kind.__name__}, which steps matrices as a whole, and trainer.strategy is ZeRO, "
            "under which each process has a piece of one long vector: use strategy/ddp, or algorithm adamw."
        )
    second = [*inspect.signature(kind.__init__).parameters][2:3]
    if second not in (["lr"], ["learning_rate"]) and kind is not MasterWeights:
        raise UserError(
            f"optimizer.algorithm is {kind.__name__}, whose second argument is {second[0] if second else 'missing'}, "
            "and has to be lr, the learning rate, as in torch.optim."
        )


def _groups_by_kind(parameters: list[nn.Parameter], embeddings: Iterable[nn.Parameter]) -> list[Group]:
    of_embeddings = {id(p) for p in embeddings}
    groups: dict[str, Group] = {
        kind: {"params": [], "kind": kind} for kind in ("matrix", "embedding", "vector", "tensor")
    }
    groups["vector"]["weight_decay"] = 0.0
    for p in parameters:
        kind = "vector" if not _is_matrix(p) else "matrix" if _dimensions(p) == 2 else "tensor"
        groups["embedding" if id(p) in of_embeddings else kind]["params"].append(p)
    return list(groups.values())


def _is_matrix(parameter: nn.Parameter) -> bool:
    return _dimensions(parameter) >= 2


def _dimensions(parameter: nn.Parameter) -> int:
    # Sharded by ZeRO-3, a parameter is an empty vector that remembers its shape.
    return len(getattr(parameter, "ds_shape", parameter.shape))


def _name(factory: Any) -> str:
    return factory if isinstance(factory, str) else getattr(made_later(factory)[0] or factory, "__name__", "it")


def build_schedule(optimizer: Optimizer, settings: OptimizerSettings, max_steps: int) -> LRScheduler:
    """The learning-rate schedule, stepped once per optimizer step.

    Args:
        optimizer: whose rate it sets.
        settings: warm-up and shape.
        max_steps: last optimizer step, needed by the schedules that fall; -1 if there is none.

    Raises:
        UserError: if a falling schedule has no last step, or a warm-up that is longer than the run; or if the schedule
            asks for a metric.
    """
    if not isinstance(settings.schedule, str):
        return _own_schedule(optimizer, settings.schedule, settings.warmup_steps)
    if settings.schedule != "constant":
        if max_steps < 0:
            raise UserError(f"optimizer.schedule is '{settings.schedule}', which needs trainer.max_steps to be set.")
        if max_steps < settings.warmup_steps:
            raise UserError(
                f"optimizer.schedule is '{settings.schedule}', and optimizer.warmup_steps = {settings.warmup_steps} is "
                f"more than trainer.max_steps = {max_steps}, so the rate would never fall."
            )
    return LambdaLR(optimizer, lambda step: rate_factor(step, settings, max_steps))


def _own_schedule(optimizer: Optimizer, factory: ScheduleFactory, warmup_steps: int) -> LRScheduler:
    warmup = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup_steps + 1))) if warmup_steps else None
    schedule = factory(optimizer)
    if isinstance(schedule, ReduceLROnPlateau):
        raise UserError(
            "optimizer.schedule is ReduceLROnPlateau, which looks at a metric; here schedules see the step alone. Name "
            "another one."
        )
    return schedule if warmup is None else SequentialLR(optimizer, [warmup, schedule], milestones=[warmup_steps])


def rate_factor(step: int, settings: OptimizerSettings, max_steps: int) -> float:
    """The share of ``learning_rate`` at optimizer step ``step``, counted from 0; never 0 before the last step."""
    warmup = settings.warmup_steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, max_steps - warmup))
    return 1.0 - done if settings.schedule == "linear" else (1.0 + math.cos(math.pi * done)) / 2
