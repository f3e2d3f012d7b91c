"""Weights and optimizer of a checkpoint, dealt out to the processes of a run under ZeRO, whoever wrote it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from laser_lightning.runs.checkpoints import saved_optimizer, whole_state_dict
from laser_lightning.runs.saved_optimizer import NotCarriedError, SavedOptimizer, SavedParameter, Spread


class Share(NamedTuple):
    """What of a parameter is in a vector of this process.

    Attributes:
        name: of the parameter.
        start: first of its elements that is here.
        place: where that one is in the vector.
        length: number of elements, which may be 0.
    """

    name: str
    start: int
    place: int
    length: int


class Vector(NamedTuple):
    """One of the vectors that this process steps, and what lies in it; behind that it is filled up.

    Attributes:
        group: number of the optimizer's group.
        weights: in float32.
        shares: of every parameter that lies in this vector of any process.
    """

    group: int
    weights: Tensor
    shares: list[Share]


def take_up_weights(module: nn.Module, path: Path, reads: bool) -> None:
    """Read a checkpoint on rank 0, and hand each parameter and buffer on; all ranks call it together.

    Args:
        module: the LightningModule.
        path: file, or directory of DeepSpeed.
        reads: whether this is rank 0.
    """
    import deepspeed

    state = whole_state_dict(path) if reads else {}
    with torch.no_grad():
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if hasattr(parameter, "ds_id"):
                with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                    if name in state:
                        parameter.copy_(state[name])
            else:
                if name in state:
                    parameter.copy_(state[name])
                torch.distributed.broadcast(parameter.data, 0)
        for name, buffer in module.named_buffers():
            if name in state:
                buffer.copy_(state[name])
            torch.distributed.broadcast(buffer, 0)


def take_up_optimizer(engine: Any, path: Path) -> str | None:
    """Give each process its part of a checkpoint's float32 weights and optimizer, each reading it for itself.

    Args:
        engine: DeepSpeed's, for training.
        path: file, or directory of DeepSpeed.

    Returns:
        Why the optimizer stays as it is; None if it was taken up.
    """
    try:
        vectors = vectors_of(engine)
        groups = [
            [share.name for vector in vectors if vector.group == number for share in vector.shares]
            for number in range(len(engine.optimizer.optimizer.param_groups))
        ]
        saved = saved_optimizer(path, groups)
        if [[parameter.name for parameter in group] for group in saved.parameters] != groups:
            raise NotCarriedError("its optimizer steps other parameters")
    except NotCarriedError as error:
        return str(error)
    deal(engine.optimizer, vectors, saved)
    return None


def vectors_of(engine: Any) -> list[Vector]:
    """What this process steps under ZeRO, in the optimizer's order.

    Args:
        engine: DeepSpeed's, for training.

    Raises:
        NotCarriedError: if DeepSpeed has it in another form.
    """
    zero, names = engine.optimizer, engine.param_names
    if getattr(zero, "swap_optimizer", False):
        raise NotCarriedError("this run has its optimizer on NVMe")
    if getattr(zero, "round_robin_gradients", False):
        raise NotCarriedError("this run has zero_options.round_robin_gradients")
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # ZeRO-3
        rank = torch.distributed.get_rank(zero.dp_process_group)
        return [
            Vector(
                zero.sub_group_to_group_id[number],
                weights,
                [_own_share(zero, parameter, names[parameter], rank) for parameter in zero.fp16_groups[number]],
            )
            for number, weights in enumerate(zero.fp32_partitioned_groups_flat)
        ]
    return [
        Vector(number, weights, [_fragment(parameter, names[parameter]) for parameter in zero.bit16_groups[number]])
        for number, weights in enumerate(zero.single_partition_of_fp32_groups)
    ]


def _own_share(zero: Any, parameter: Any, name: str, rank: int) -> Share:
    """Every process has a share of the same size, of which the last ones may be filled up."""
    _, place, size = zero.grad_position[zero.get_param_id(parameter)]
    start = min(rank * size, parameter.ds_numel)
    return Share(name, start, place, min(size, parameter.ds_numel - start))


def _fragment(parameter: Any, name: str) -> Share:
    here = parameter._hp_mapping
    if here is None:
        return Share(name, 0, 0, 0)
    return Share(name, here.lp_fragment_address.start, here.hp_fragment_address.start, here.lp_fragment_address.numel)


def deal(zero: Any, vectors: Sequence[Vector], saved: SavedOptimizer) -> None:
    """Fill the vectors of this process and their states, and set the groups as they were.

    Args:
        zero: DeepSpeed's optimizer, around the one that steps.
        vectors: of this process.
        saved: with the parameters of the vectors, in the same order.
    """
    inner, parameters = zero.optimizer, {one.name: one for group in saved.parameters for one in group}
    states = {}
    for number, vector in enumerate(vectors):
        found = [(parameters[share.name], share) for share in vector.shares]
        fill(vector.weights.detach(), [(parameter.weight, share) for parameter, share in found])
        state: dict[str, Any] = {key: torch.zeros_like(vector.weights) for one, _ in found for key in one.states}
        for key, values in state.items():
            # A parameter that no gradient has reached yet has no states, and is 0 in those of ZeRO.
            fill(values, [(parameter.states[key], share) for parameter, share in found if key in parameter.states])
        states[number] = state | _numbers([parameter for parameter, _ in found], type(inner).__module__)
    if by_vector := hasattr(
        zero, "_set_fp32_optimizer_param_groups"
    ):  # under ZeRO-3 the groups are empty between steps
        zero._set_fp32_optimizer_param_groups()
    groups = [
        group | {key: value for key, value in settings.items() if key in group}
        for group, settings in zip(inner.state_dict()["param_groups"], saved.settings, strict=True)
    ]
    inner.load_state_dict({"state": states, "param_groups": groups})
    if by_vector:
        zero._clear_fp32_optimizer_param_groups()


def fill(values: Tensor, parts: Sequence[tuple[Spread, Share]]) -> None:
    """Copy parts of parameters into their places.

    Args:
        values: a vector of this process.
        parts: where each whole one lies, and what of it belongs where.
    """
    for whole, share in parts:
        values[share.place : share.place + share.length].copy_(whole.read(share.start, share.length))


def _numbers(parameters: Sequence[SavedParameter], module: str) -> dict[str, Any]:
    """The states of one number of a vector: the largest of its parameters.

    A count of steps is smaller for parameters that some steps did not reach; those of ZeRO reach all.
    """
    numbers: dict[str, Any] = {}
    for key in {key: None for one in parameters for key in one.numbers}:
        largest = max((one.numbers[key] for one in parameters if key in one.numbers), key=float)
        if module.startswith("deepspeed."):  # which counts in Python, and torch in tensors, of which it makes those
            numbers[key] = int(largest)
        else:
            numbers[key] = largest.clone() if isinstance(largest, Tensor) else largest
    return numbers
