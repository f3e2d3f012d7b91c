"""A model's weights on their way to somebody else who computes with them: whole, in order, and never all at once."""

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from laser_lightning.policy.lora import merged_weights

WeightStream = Iterator[tuple[str, Tensor]]
"""Names in a checkpoint of transformers, and weights; those of a layer are whole until the next layer is asked for."""

Hold = Callable[[Sequence[nn.Parameter]], AbstractContextManager[None]]
"""Holds some parameters whole, where they are sharded; all ranks enter it together."""

_LAYER = re.compile(r"(?:.*?\.)?\d+(?=\.)")  # model.layers.0 of model.layers.0.mlp.experts.3.up_proj.weight
_ADAPTED = re.compile(r".*?(?=\.(?:base_layer|lora_[AB])\.)")  # lm_head of lm_head.lora_A.default.weight


def unsharded(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
    """Hold parameters that are whole anyway."""
    return nullcontext()


@torch.no_grad()
def stream_weights(lm: PreTrainedModel, hold: Hold = unsharded) -> Generator[tuple[str, Tensor], None, None]:
    """The weights of a model as they stand in a checkpoint of transformers, LoRA merged in.

    Sharded ones are gathered a layer at a time, in the order of the state dict:

        embed_tokens | layers.0: q k v o gate up down norms | layers.1: ... | norm | lm_head
                       gathered, handed on, and let go before layers.1 is gathered

    Tensors of one layer may be converted together (the experts of a mixture), and those of two layers never are.

    Args:
        lm: the model; nothing in it is changed.
        hold: holds the parameters of a layer.

    Yields:
        Names and tensors. With LoRA one merged weight is computed at a time, where the checkpoint has the names of the
        model.
    """
    yield from _weights_of(lm, lm.state_dict(keep_vars=True), hold)


def _weights_of(lm: PreTrainedModel, state: Mapping[str, Tensor], hold: Hold) -> Iterator[tuple[str, Tensor]]:
    nothing: dict[str, Tensor] = {}
    has_own_names = revert_weight_conversion(lm, nothing) is nothing
    for names in layers_of(state):
        with hold([value for name in names if isinstance(value := state[name], nn.Parameter)]):
            merged = merged_weights(lm, {name: state[name].detach() for name in names})
            yield from merged if has_own_names else revert_weight_conversion(lm, dict(merged)).items()


@dataclass(frozen=True)
class WeightShape:
    """What a weight of a stream is, before it is there.

    Attributes:
        name: in a checkpoint of transformers.
        dtype: its type.
        shape: of the whole.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


@torch.no_grad()
def weight_shapes(lm: PreTrainedModel) -> list[WeightShape]:
    """What ``stream_weights`` will yield, in its order. Nothing is gathered, and no rank needs the others for it."""
    state = {name: whole_on_meta(tensor) for name, tensor in lm.state_dict(keep_vars=True).items()}
    weights = _weights_of(lm, state, unsharded)
    return [WeightShape(name, weight.dtype, tuple(weight.shape)) for name, weight in weights]


def whole_on_meta(tensor: Tensor) -> Tensor:
    """A tensor without memory, on the meta device; of one that ZeRO-3 shards, the whole."""
    return torch.empty(getattr(tensor, "ds_shape", tensor.shape), dtype=tensor.dtype, device="meta")


def parts_of(weights: WeightStream, most_bytes: int) -> Iterator[tuple[dict[str, Tensor], bool]]:
    """Copy a stream to the CPU, a part at a time.

    Args:
        weights: to its end.
        most_bytes: of a part; a larger weight is a part of its own.

    Yields:
        Names and weights, and whether these are the last ones. Without weights it is one part, of none.
    """
    part: dict[str, Tensor] = {}
    held = 0
    for name, weight in weights:
        if part and held + weight.nbytes > most_bytes:
            yield part, False
            part, held = {}, 0
        # A copy: what is gathered lasts until the next layer, and tied weights share memory.
        part[name] = weight.detach().to("cpu", copy=True).contiguous()
        held += weight.nbytes
    yield part, True


def layers_of(names: Iterable[str]) -> list[list[str]]:
    """The names of a state dict in their order, those of a layer (``model.layers.0``) together.

    Of what is in no layer a weight with its adapter is together, and any other one alone.
    """
    layers: dict[str, list[str]] = {}
    for name in names:
        found = _LAYER.match(name) or _ADAPTED.match(name)
        layers.setdefault(name if found is None else found[0], []).append(name)
    return list(layers.values())
