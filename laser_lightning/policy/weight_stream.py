"""A model's weights on their way to somebody else who computes with them: whole, in order, and never all at once."""

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

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
    state = lm.state_dict(keep_vars=True)
    nothing: dict[str, Tensor] = {}
    has_own_names = revert_weight_conversion(lm, nothing) is nothing
    for names in layers_of(state):
        with hold([value for name in names if isinstance(value := state[name], nn.Parameter)]):
            merged = merged_weights(lm, {name: state[name].detach() for name in names})
            yield from merged if has_own_names else revert_weight_conversion(lm, dict(merged)).items()


def layers_of(names: Iterable[str]) -> list[list[str]]:
    """The names of a state dict in their order, those of a layer (``model.layers.0``) together.

    Of what is in no layer a weight with its adapter is together, and any other one alone.
    """
    layers: dict[str, list[str]] = {}
    for name in names:
        found = _LAYER.match(name) or _ADAPTED.match(name)
        layers.setdefault(name if found is None else found[0], []).append(name)
    return list(layers.values())
