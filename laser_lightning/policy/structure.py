"""Where a transformers model keeps its decoder, how far its positions reach, and whether it looks ahead."""

from collections.abc import Iterator
from typing import Any, cast

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


def is_bidirectional(lm: PreTrainedModel) -> bool:
    """Whether the model's config says that a place of a sequence sees the tokens behind it."""
    return getattr(lm.config.get_text_config(), "use_bidirectional_attention", None) is True


def causal_remedy(lm: PreTrainedModel) -> str:
    """What to do about a model whose earlier places change with a later token, as a part of a sentence."""
    if is_bidirectional(lm):
        return "set use_bidirectional_attention to false in its config.json if its weights were trained so"
    if getattr(lm.config.get_text_config(), "is_decoder", None) is False:
        return "set is_decoder to true in its config.json if its weights were trained so"
    return "take a causal language model"
