"""Weights on their way to an engine: those of a checkpoint, layer after layer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, Qwen2Config
from transformers.core_model_loading import revert_weight_conversion

from laser_lightning.policy.lora import LoRASettings, merged_weights
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import WeightShape, layers_of, parts_of, stream_weights, weight_shapes

MIXTURE = {"num_local_experts": 4, "num_experts_per_tok": 2}


def test_layers() -> None:
    names = [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.experts.3.w1.weight",
        "model.layers.10.self_attn.q_proj.base_layer.weight",
        "model.layers.10.self_attn.q_proj.lora_A.default.weight",
        "model.layers.1.norm.weight",
        "model.layers.0.norm.weight",
        "model.norm.weight",
        "model.norm.bias",
        "lm_head.base_layer.weight",
        "lm_head.lora_A.default.weight",
        "lm_head.lora_B.default.weight",
    ]
    found = [[names.index(name) for name in layer] for layer in layers_of(names)]
    assert found == [[0], [1, 2, 6], [3, 4], [5], [7], [8], [9, 10, 11]]


@pytest.fixture(
    params=[
        (Qwen2Config, {"tie_word_embeddings": True}, None),
        (Qwen2Config, {"tie_word_embeddings": False}, LoRASettings(rank=3)),
        (MixtralConfig, MIXTURE, None),  # whose experts are fused in the model, and not in a checkpoint
        (MixtralConfig, MIXTURE, LoRASettings(rank=3, experts=True)),
    ],
    ids=["tied", "lora", "mixture", "mixture with lora"],
)
def policy(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    save_model: Callable[..., Path],
    tiny_config: Callable,
    make_policy: Callable[..., Policy],
) -> Policy:
    config_class, fields, lora = request.param
    policy = make_policy(save_model(tmp_path / "model", tiny_config(config_class, **fields)), lora=lora)
    for name, parameter in policy.lm.named_parameters():
        if ".lora_B" in name:  # zero at the start
            nn.init.normal_(parameter)
    return policy


def test_the_stream_is_the_whole_conversion_in_parts(policy: Policy) -> None:
    held: list[set[int]] = [set()]

    @contextmanager
    def hold(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        assert not held[-1]  # one layer is let go before the next is gathered
        held.append({id(parameter) for parameter in parameters})
        yield
        held.append(set())

    streamed, layers = {}, []
    for name, value in stream_weights(policy.lm, hold):
        assert held[-1]
        layers.append(len(held))
        streamed[name] = value
    # All at once, as it was done before.
    whole = revert_weight_conversion(policy.lm, dict(merged_weights(policy.lm, policy.lm.state_dict())))
    assert streamed.keys() == whole.keys()
    assert all(torch.equal(streamed[name], value) for name, value in whole.items())
    assert set().union(*held) == {id(parameter) for parameter in policy.lm.parameters()}
    assert layers == sorted(layers)
    assert len(set(layers)) == policy.lm.config.num_hidden_layers + 3  # embedding, norm, head


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_comes_is_declared_without_a_weight(policy: Policy, dtype: torch.dtype) -> None:
    policy.lm.to(dtype)
    streamed = [WeightShape(name, value.dtype, tuple(value.shape)) for name, value in stream_weights(policy.lm)]
    for parameter in policy.lm.parameters():  # as ZeRO-3 leaves them between two passes
        parameter.ds_shape, parameter.data = parameter.shape, torch.empty(0, dtype=parameter.dtype)
    assert weight_shapes(policy.lm) == streamed


def test_parts() -> None:
    # 4, 8, 4 and 20 bytes, of which 12 go into a part
    sizes = {"a": 1, "b": 2, "c": 1, "d": 5}
    weights = {name: torch.full((size,), float(size)) for name, size in sizes.items()}
    parts = [(list(part), is_last) for part, is_last in parts_of(iter(weights.items()), 12)]
    assert parts == [(["a", "b"], False), (["c"], False), (["d"], True)]
    ((part, _),) = parts_of(iter(weights.items()), 100)
    weights["d"].zero_()
    assert part["d"].tolist() == [5.0] * 5  # a copy
    assert list(parts_of(iter(()), 12)) == [({}, True)]
