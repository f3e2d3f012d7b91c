"""Where a transformers model keeps its decoder, how far its positions reach, and whether it looks ahead."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from laser_lightning.errors import UserError


def decoder_of(lm: PreTrainedModel) -> PreTrainedModel:
    """The part of a causal LM that makes hidden states of token ids.

    Args:
        lm: the model. For some (Llama 4, ModernBERT's decoder) the look-up of transformers returns the whole model, or
            the head.
    """
    found = lm.get_decoder()
    if found is lm or found is lm.get_output_embeddings():
        found = getattr(lm, "model", lm.base_model)
    return cast(PreTrainedModel, found)


def position_limit(config: PretrainedConfig) -> int | None:
    """Tokens that a sequence may have; None for models without a limit.

    With LongRoPE that is the length before it was made longer: past it transformers rotates all rows of a batch by
    other factors as soon as one row is that long, so that what a row yields would depend on its neighbours.

    Args:
        config: the language model's.
    """
    most = getattr(config, "max_position_embeddings", None)
    limits = [limit for limit in (most, shared_rotation_limit(config)) if limit is not None]
    return min(limits, default=None)


def shared_rotation_limit(config: PretrainedConfig) -> int | None:
    """Tokens up to which rotary embeddings do not depend on the longest row of a batch; None where they never do.

    Dynamic NTK scaling rescales a whole batch past the positions of the config, and stays so for later batches.
    LongRoPE with equal factors for short and long sequences depends on nothing.

    Args:
        config: the language model's.
    """
    most = getattr(config, "max_position_embeddings", None)
    found = []
    for rope in _rotations(config):
        kind = str(rope.get("rope_type", rope.get("type", "")))
        if kind == "longrope" and rope.get("short_factor") != rope.get("long_factor"):
            found.append(
                rope.get("original_max_position_embeddings")
                or getattr(config, "original_max_position_embeddings", None)
                or most
            )
        elif "dynamic" in kind:
            found.append(most)
    return min((limit for limit in found if limit is not None), default=None)


def _rotations(config: PretrainedConfig) -> Iterator[dict[str, Any]]:
    """The settings of rotary embeddings: one for all layers, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    yield from (part for part in (rope, *rope.values()) if isinstance(part, dict))


def refuse_long_rows(config: PretrainedConfig, width: int) -> None:
    """Refuse sequences past the length up to which rows do not depend on each other.

    Args:
        config: the language model's.
        width: tokens of the longest row of a batch.
    """
    limit = shared_rotation_limit(config)
    if limit is not None and width > limit:
        raise UserError(
            f"A sequence has {width} tokens, and the model's rotary embeddings (LongRoPE or dynamic NTK) change for a "
            f"whole batch as soon as one of its sequences is longer than {limit}, so that results would depend on the "
            "neighbours: lower sampling.max_response_tokens or data.max_prompt_tokens. With LongRoPE, longer sequences "
            "can be trained with the long factors for all: put long_factor in the place of short_factor in the model's "
            "config.json."
        )


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # the probe's shapes are not worth compiling for
def refuse_lookahead(lm: PreTrainedModel, hidden_states: Callable[[Tensor], Tensor]) -> None:
    """Refuse a model whose earlier places change with a later token: no language model to sample from.

    Args:
        lm: the model, whole on this rank.
        hidden_states: maps token ids [B, L] to [B, L, D].

    Raises:
        UserError: if places of a sequence see those behind them, or the model's config says that they do; or if it has
            no hidden states of text alone.
    """
    config = lm.config.get_text_config()
    remedy = "take a causal language model"
    looks = getattr(config, "use_bidirectional_attention", None) is True
    if looks:
        remedy = "set use_bidirectional_attention to false in its config.json if its weights were trained so"
    elif getattr(config, "is_decoder", None) is False:
        remedy = "set is_decoder to true in its config.json if its weights were trained so"
    if not looks:
        probe = torch.arange(6, device=lm.device)[None] % config.vocab_size
        other = probe.clone()
        other[0, -1] = (other[0, -1] + 1) % config.vocab_size
        try:
            first, second = (hidden_states(ids)[0, :-1].float() for ids in (probe, other))
        except Exception as error:  # of whatever the model's own code makes of text alone
            raise UserError(
                f"{type(lm).__name__} cannot be run on the tokens of a text alone ({type(error).__name__}: {error}): "
                "take another model."
            ) from error
        looks = float((first - second).norm() / first.norm()) > torch.finfo(lm.dtype).eps ** 0.5  # half of the digits
    if looks:
        raise UserError(
            f"In {type(lm).__name__} a place of a sequence sees the tokens behind it (bidirectional attention), so it "
            f"cannot be sampled from token by token: {remedy}."
        )
