"""Strategies for many processes: DDP, and DeepSpeed ZeRO 1, 2 and 3, on CUDA and (over gloo) on CPU.

Lightning's own strategies wrap a whole training step in one forward pass of the engine. Here a step has as many forward
passes as micro-batches, and a rollout before them that must not run under the engine's hooks, so these strategies call
the LightningModule's steps directly, and the module calls the engine once per micro-batch.

They are named by class in YAML (see ``configs/strategy``), or in Python by ``laser_ddp``, ``laser_zero1``,
``laser_zero2`` and ``laser_zero3`` once this module is imported.
"""

from contextlib import AbstractContextManager

from lightning.pytorch.strategies import Strategy, StrategyRegistry
from torch import Tensor, nn

from laser_lightning.distributed.ddp import LaSeRDDPStrategy
from laser_lightning.distributed.direct_steps import DirectSteps
from laser_lightning.distributed.training_strategy import OneDevice, TrainingStrategy, training_strategy
from laser_lightning.distributed.zero import LaSeRDeepSpeedStrategy, StepNotAppliedError

__all__ = [
    "DirectSteps",
    "LaSeRDDPStrategy",
    "LaSeRDeepSpeedStrategy",
    "OneDevice",
    "StepNotAppliedError",
    "TrainingStrategy",
    "check_strategy",
    "gathered",
    "gathers",
    "micro_step",
    "steps_on_host",
    "training_strategy",
    "whole_weights",
]

# ------------------------------------------- the methods of TrainingStrategy, as functions of version 0.1


def check_strategy(strategy: Strategy | None) -> None:
    """Refuse a strategy whose gradients would be wrong here (see ``training_strategy``)."""
    training_strategy(strategy)


def steps_on_host(strategy: Strategy | None) -> bool:
    """See ``TrainingStrategy.steps_on_host``."""
    return training_strategy(strategy).steps_on_host


def micro_step(strategy: Strategy, last: bool) -> AbstractContextManager[None]:
    """See ``TrainingStrategy.micro_step``."""
    return training_strategy(strategy).micro_step(last)


def gathers(strategy: Strategy | None, *modules: nn.Module | None) -> bool:
    """See ``TrainingStrategy.gathers``; None is passed over."""
    return training_strategy(strategy).gathers(*(module for module in modules if module is not None))


def gathered(strategy: Strategy | None, *modules: nn.Module | None) -> AbstractContextManager[None]:
    """See ``TrainingStrategy.gathered``; None is passed over."""
    return training_strategy(strategy).gathered(*(module for module in modules if module is not None))


def whole_weights(strategy: Strategy | None, module: nn.Module) -> dict[str, Tensor]:
    """See ``TrainingStrategy.whole_weights``."""
    return training_strategy(strategy).whole_weights(module)


def _register() -> None:
    if "laser_ddp" in StrategyRegistry.available_strategies():
        return
    StrategyRegistry.register("laser_ddp", LaSeRDDPStrategy, description="DDP for laser-lightning")
    for stage in (1, 2, 3):
        StrategyRegistry.register(
            f"laser_zero{stage}",
            LaSeRDeepSpeedStrategy,
            description=f"DeepSpeed ZeRO-{stage} for laser-lightning",
            stage=stage,
        )


_register()
