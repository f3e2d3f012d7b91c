"""One optimizer step that is taken only where the gradients are finite."""

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import Strategy

from laser_lightning.distributed.strategies import LaSeRDeepSpeedStrategy, StepNotAppliedError
from laser_lightning.policy.master_weights import MasterWeights
from laser_lightning.policy.precision import unscaled


def step_if_finite(strategy: Strategy, optimizer: LightningOptimizer, limit: float | None) -> tuple[float, bool]:
    """Clip the gradients and step, or drop them where their global norm is not finite; the same on all ranks.

    Args:
        strategy: of the trainer.
        optimizer: the one to step.
        limit: largest gradient norm; None for no limit.

    Returns:
        The gradient norm before clipping, and whether the step was taken.
    """
    if isinstance(strategy, LaSeRDeepSpeedStrategy):
        try:
            optimizer.step()
        except StepNotAppliedError:
            return float("inf"), False
        return float(strategy.deepspeed_engine.get_global_grad_norm()), True
    inner = optimizer.optimizer
    if isinstance(inner, MasterWeights):
        inner.collect_gradients()
    with unscaled(strategy.precision_plugin, inner):
        parameters = [p for group in inner.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, torch.inf if limit is None else limit)
        finite = bool(norm.isfinite())
        if finite:
            optimizer.step()
    optimizer.zero_grad()
    return float(norm), finite
