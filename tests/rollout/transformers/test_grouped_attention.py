"""Attention of single tokens over shared key heads against one that repeats them."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from laser_lightning.policy.model import Policy
from laser_lightning.rollout.transformers.grouped_attention import NAME, attend, grouped_attention


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("scaling", [None, 0.2])
def test_every_query_head_attends_to_the_key_head_of_its_group(groups: int, scaling: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, key_heads, columns, size, value_size = 4, 2, 7, 5, 6
    query = torch.randn(rows, key_heads * groups, 1, size, generator=generator)
    key = torch.randn(rows, key_heads, columns, size, generator=generator)
    value = torch.randn(rows, key_heads, columns, value_size, generator=generator)
    mask = torch.rand(rows, 1, 1, columns, generator=generator) < 0.5
    mask[..., 0] = True
    module = nn.Module()
    module.num_key_value_groups = groups  # type: ignore[assignment]
    output, _ = attend(module, query, key, value, mask, scaling=scaling)
    assert output.shape == (rows, 1, key_heads * groups, value_size)
    for row in range(rows):
        for head in range(key_heads * groups):
            seen = mask[row, 0, 0]
            logits = key[row, head // groups, seen] @ query[row, head, 0] * (scaling or size**-0.5)
            expected = logits.softmax(0) @ value[row, head // groups, seen]
            torch.testing.assert_close(output[row, 0, head], expected)


def test_the_usual_attention_comes_back(make_policy: Callable[..., Policy]) -> None:
    lm = make_policy().lm

    def fail() -> None:
        with grouped_attention(lm):
            assert lm.config._attn_implementation == NAME
            raise RuntimeError("a step failed")

    with pytest.raises(RuntimeError, match="a step failed"):
        fail()
    assert lm.config._attn_implementation == "sdpa"
