"""The optimizer of a checkpoint, parameter by parameter, however many processes wrote it and whatever each of them has.

With two processes, parameters a, b, c of 3, 6 and 4 weights, and 0 for what fills up:

    ZeRO-1, 2   all parameters of a group are one vector, of which each process has a share
                | a a a b b b b |   | b b c c c c 0 |
    ZeRO-3      each process has a share of each parameter
                | a a b b b c c |   | a 0 b b b c c |
    a file      every parameter is whole

DeepSpeed's own conversion (``ds_to_universal``) writes a file for each parameter and state, three times the weights,
and takes its own directories alone. Here nothing is written: each process reads what it needs from where it lies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor

from laser_lightning.policy.head import HALF_PRECISION
from laser_lightning.policy.master_weights import COPIES

Saved = Mapping[str, Any]


class NotCarriedError(Exception):
    """An optimizer cannot be taken up; the message is the reason, as a part of a sentence."""


class Spread(NamedTuple):
    """A vector that lies in pieces, on disk, of which those are read that are asked for.

    Attributes:
        pieces: vectors; it is a part of all of them end to end.
        start: where it begins there.
    """

    pieces: tuple[Tensor, ...]
    start: int = 0

    def read(self, start: int, length: int) -> Tensor:
        """A copy of ``length`` elements behind the first ``start``."""
        first, found = self.start + start, []
        for piece in self.pieces:
            found.append(piece[max(first, 0) : max(first + length, 0)])
            first -= len(piece)
        return torch.cat(found)


class SavedParameter(NamedTuple):
    """What a checkpoint has of a parameter that is stepped.

    Attributes:
        name: in the module.
        shape: its shape.
        weight: in float32, where the run had it so.
        states: of as many elements as the parameter, by key, such as ``exp_avg``.
        numbers: states of one number, such as the ``step`` that counts.
    """

    name: str
    shape: torch.Size
    weight: Spread
    states: dict[str, Spread]
    numbers: dict[str, Any]

    def whole(self, vector: Spread) -> Tensor:
        """The weight, or a state, in the parameter's shape."""
        return vector.read(0, self.shape.numel()).view(self.shape)


@dataclass(frozen=True)
class SavedOptimizer:
    """What a checkpoint has of its optimizer.

    Attributes:
        settings: of each group of parameters, such as its ``lr``.
        parameters: of each group, in the optimizer's order.
    """

    settings: list[dict[str, Any]]
    parameters: list[list[SavedParameter]]

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state dict in one process, or in each of several under DDP; it reads all states.

        The float32 weights are in it for MasterWeights, which reads those of its copies, by number.
        """
        numbered = list(enumerate(one for group in self.parameters for one in group))
        numbers = iter(range(len(numbered)))
        return {
            "state": {
                number: {key: one.whole(state) for key, state in one.states.items()}
                | {key: value.clone() if isinstance(value, Tensor) else value for key, value in one.numbers.items()}
                for number, one in numbered
                if one.states or one.numbers
            },
            "param_groups": [
                {**settings, "params": [next(numbers) for _ in group]}
                for settings, group in zip(self.settings, self.parameters, strict=True)
            ],
            COPIES: {number: partial(one.whole, one.weight) for number, one in numbered},
        }


class StateDicts(Sequence[dict[str, Any]]):
    """The state dicts of a checkpoint's one optimizer, read when asked for, which an evaluation does not do."""

    def __init__(self, saved: SavedOptimizer) -> None:
        self._saved = saved

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: Any) -> Any:
        return [self._saved.state_dict()][number]


def of_shards(shards: Sequence[Saved], shapes: Sequence[Mapping[str, torch.Size]]) -> SavedOptimizer:
    """The optimizer of a directory of DeepSpeed.

    Args:
        shards: what each process wrote of its optimizer, in the order of the processes.
        shapes: of the parameters in each vector, by name and in order.

    Raises:
        NotCarriedError: if its states cannot be told apart by parameter.
    """
    in_shares = int(shards[0]["zero_stage"]) == 3
    inner, copies = (
        ("optimizer_state_dict", "fp32_flat_groups")
        if in_shares
        else ("base_optimizer_state", "single_partition_of_fp32_groups")
    )
    optimizers = [shard[inner] for shard in shards]
    if not all(isinstance(optimizer, dict) for optimizer in optimizers):
        raise NotCarriedError("it was written with DeepSpeed's elastic_checkpoint")
    settings, parameters = [], []
    for group in optimizers[0]["param_groups"]:
        settings.append({key: value for key, value in group.items() if key != "params"})
        parameters.append(
            [
                parameter
                for vector in group["params"]
                for parameter in _of_vector(
                    shapes[vector],
                    [shard[copies][vector] for shard in shards],
                    [optimizer["state"].get(vector, {}) for optimizer in optimizers],
                    in_shares,
                    shards[0].get("param_alignment_paddings", {vector: None})[vector],
                )
            ]
        )
    return SavedOptimizer(settings, parameters)


def _of_vector(
    shapes: Mapping[str, torch.Size],
    weights: list[Tensor],
    states: list[Saved],
    in_shares: bool,
    fillings: Sequence[int] | None,
) -> list[SavedParameter]:
    """The parameters that lie in one vector, from what each process has of it; behind some there is filling."""
    vectors, numbers = {}, {}
    for key, value in states[0].items():
        if isinstance(value, Tensor) and value.dim() > 0:
            vectors[key] = [state[key] for state in states]
            if any(len(values) < len(weight) for values, weight in zip(vectors[key], weights, strict=True)):
                raise NotCarriedError(f"its optimizer's state {key} is not of the size of the weights")
        elif value is not None:
            numbers[key] = value
    found, place = [], 0
    for number, (name, shape) in enumerate(shapes.items()):
        size = ceil(shape.numel() / len(weights)) if in_shares else shape.numel()
        weight = _spread(weights, place, size, in_shares)
        of_this = {key: _spread(pieces, place, size, in_shares) for key, pieces in vectors.items()}
        found.append(SavedParameter(name, shape, weight, of_this, numbers))
        place += size + (fillings[number] if fillings else 0)
    if place > (len(weights[0]) if in_shares else sum(map(len, weights))):
        raise NotCarriedError("its float32 copies are elsewhere")
    return found


def _spread(pieces: list[Tensor], place: int, size: int, in_shares: bool) -> Spread:
    if in_shares:
        return Spread(tuple(piece[place : place + size] for piece in pieces))
    return Spread(tuple(pieces), place)


def of_file(saved: Saved, names: Sequence[Sequence[str]]) -> SavedOptimizer:
    """The optimizer of a checkpoint file, of one process or of DDP.

    Args:
        saved: what the file holds.
        names: of the parameters of each group, in the optimizer's order, which the file does not have.

    Raises:
        NotCarriedError: if it is an optimizer of other parameters.
    """
    if not saved.get("optimizer_states"):
        raise NotCarriedError("it has no optimizer (save_weights_only)")
    optimizer, weights = saved["optimizer_states"][0], saved["state_dict"]
    copies = iter(optimizer.get(COPIES, ()))
    groups = optimizer["param_groups"]
    if [len(group["params"]) for group in groups] != [len(group) for group in names]:
        raise NotCarriedError("its optimizer steps other parameters")
    settings, parameters = [], []
    for group, group_names in zip(groups, names, strict=True):
        settings.append({key: value for key, value in group.items() if key != "params"})
        parameters.append(
            [
                _of_whole(name, weights.get(name), copies, optimizer["state"].get(number, {}))
                for number, name in zip(group["params"], group_names, strict=True)
            ]
        )
    return SavedOptimizer(settings, parameters)


def _of_whole(name: str, weight: Tensor | None, copies: Any, state: Saved) -> SavedParameter:
    if weight is None:
        raise NotCarriedError(f"it lacks the parameter {name}")
    states, numbers = {}, {}
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dim() > 0:
            if value.shape != weight.shape:
                raise NotCarriedError(f"its optimizer's state {key} of {name} is not of the size of the weights")
            states[key] = Spread((value.reshape(-1),))
        elif value is not None:
            numbers[key] = value
    full = next(copies, weight) if weight.dtype in HALF_PRECISION else weight
    return SavedParameter(name, weight.shape, Spread((full.reshape(-1),)), states, numbers)
