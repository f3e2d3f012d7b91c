"""DeepSpeed's states of the optimizer in host memory while solutions are drawn, and back for the update."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from laser_lightning.errors import UserError

KEY = "trainer.strategy.init_args.offload_states_in_rollouts"

HOSTED = {"offload_optimizer": "offload_optimizer", "offload_param": "offload_parameters"}
"""DeepSpeed's keys of what is in host memory all the time, and Lightning's arguments for them."""


def check_settings(zero: Mapping[str, Any]) -> None:
    """Refuse states that are in host memory anyway.

    Args:
        zero: DeepSpeed's ``zero_optimization``.
    """
    if offloads := [name for key, name in HOSTED.items() if key in zero]:
        raise UserError(
            f"{KEY} moves the optimizer's states to host memory for rollouts, where {' and '.join(offloads)} keeps "
            "them all the time: leave one of the two out."
        )


def check_optimizer(optimizer: Any, stage: int) -> None:
    """Refuse an optimizer whose states DeepSpeed would not move.

    Args:
        optimizer: DeepSpeed's, around the one that steps.
        stage: of ZeRO.
    """
    name = type(optimizer.optimizer).__name__
    if not hasattr(optimizer, "offload_states"):
        raise UserError(f"{KEY}: DeepSpeed's {type(optimizer).__name__} has no such thing. Leave it out.")
    if stage == 3 and name != "FusedAdam":
        raise UserError(
            f"{KEY} works under ZeRO-3 with DeepSpeed's FusedAdam alone (on CUDA), and the optimizer is {name}: "
            "overlay strategy/zero2, set model.optimizer.algorithm to deepspeed.ops.adam.FusedAdam, or leave it out."
        )


@contextmanager
def offloaded(engine: Any) -> Iterator[None]:
    """Keep all that the optimizer step alone needs in host memory: its states, its float32 copies, and gradients.

    The weights stay, since rollouts need them. No number changes.

    Args:
        engine: DeepSpeed's.
    """
    from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum as State

    states = engine.optimizer.optimizer.state.values()
    # torch's optimizers count their steps there, and DeepSpeed would bring the counts back to the GPU.
    on_host = [
        (state, name, value)
        for state in states
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.device.type == "cpu"
    ]
    include = [State.hp_params, State.optim_states, State.lp_grads, State.contiguous_grad_buffer]
    engine.offload_states(include=include, pin_memory=torch.cuda.is_available())
    try:
        yield
    finally:
        engine.reload_states()
        for state, name, value in on_host:
            state[name] = value
