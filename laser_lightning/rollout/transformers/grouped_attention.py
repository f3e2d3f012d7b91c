"""Attention of single tokens where several query heads share a key head, without a copy of the keys for each."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "sdpa_of_groups"


_NO_GROUPS = nn.Identity()  # stands for an attention module whose query heads each have a key head


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """``sdpa`` of transformers for one token per row.

    transformers repeats keys and values for each query head of a group when it is compiled, and not otherwise. Here the
    query heads of a group attend as if they were tokens of one head.

    Args:
        module: the attention module.
        query: [B, K * G, 1, D], the G query heads of a key head next to each other.
        key: [B, K, C, D].
        value: [B, K, C, D'].
        attention_mask: [B, 1, 1, C] bool.
        options: what else transformers passes.

    Returns:
        [B, 1, K * G, D'], and None for the weights.
    """
    if query.shape[1] == key.shape[1] or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    packed = query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])
    output, _ = sdpa_attention_forward(_NO_GROUPS, packed, key, value, attention_mask, **options)  # [B, G, K, D']
    return output.transpose(1, 2).reshape(query.shape[0], 1, query.shape[1], -1), None


AttentionInterface.register(NAME, attend)


@contextmanager
def grouped_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model with ``sdpa`` use this attention for a while. It needs masks with four axes then."""
    config = model.config.get_text_config()
    usual = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = usual
