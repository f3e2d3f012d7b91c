"""A policy of a GGUF file: the same weights, in floats, and an export of the usual form."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PretrainedConfig

from laser_lightning.errors import UserError
from laser_lightning.policy import gguf as gguf_module
from laser_lightning.policy.exports import try_exports
from laser_lightning.policy.model import Policy, PolicySettings, load_tokenizer
from laser_lightning.policy.quantised import quantisation

FILE, HEADS = "tiny.gguf", 2
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of query and key weights as llama.cpp has them: the halves of each head in turn."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def in_llama_cpp(name: str) -> str:
    """What llama.cpp calls a weight of transformers' Llama."""
    if not name.startswith("model.layers."):
        names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
        return f"{names[name.removesuffix('.weight')]}.weight"
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


@pytest.fixture(scope="module")
def lm(tiny_config: Callable[..., PretrainedConfig]) -> Any:
    """A tiny random Llama whose rows are whole blocks of Q8_0."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 261, "hidden_size": 64, "num_attention_heads": HEADS, "num_key_value_heads": 1}
    return AutoModelForCausalLM.from_config(tiny_config(LlamaConfig, **sizes, tie_word_embeddings=False))


@pytest.fixture(scope="module", params=["F32", "Q8_0"])
def written(request: pytest.FixtureRequest, lm: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A directory with the model as a GGUF file alone, and its weights as they are in it."""
    gguf = pytest.importorskip("gguf", reason='the package gguf is not installed: pip install "laser-lightning[gguf]"')
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    kind = gguf.GGMLQuantizationType[request.param]
    path = tmp_path_factory.mktemp("gguf")
    writer = gguf.GGUFWriter(path / FILE, "llama")
    config = lm.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_vocab_size(config.vocab_size)
    tokens = [*bytes_to_unicode().values(), "ab", "abc", "<eos>", "<pad>", "<|reward|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 258 + [3] * 3)
    writer.add_token_merges(["a b", "ab c"])  # transformers before 5.19 misread a list of one
    writer.add_bos_token_id(258)
    writer.add_eos_token_id(258)
    writer.add_pad_token_id(259)
    expected = {}
    for name, value in lm.state_dict().items():
        array, target = value.numpy(), in_llama_cpp(name)
        heads = {"q_proj": HEADS, "k_proj": 1}.get(name.split(".")[-2])
        if array.ndim == 1 or request.param == "F32":
            writer.add_tensor(target, np.ascontiguousarray(array if heads is None else interleaved(array, heads)))
            expected[name] = value
        else:  # each row in blocks of its own, so that their order does not change the numbers
            ordered = np.ascontiguousarray(array if heads is None else interleaved(array, heads))
            writer.add_tensor(target, gguf.quants.quantize(ordered, kind), raw_dtype=kind)
            expected[name] = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, expected


def test_it_is_trained_in_float32_and_exported_as_any_other(written: tuple[Path, dict], tmp_path: Path) -> None:
    path, expected = written
    settings = PolicySettings(str(path), gguf_file=FILE)
    tokenizer = load_tokenizer(settings)
    assert tokenizer.eos_token_id == 258
    assert tokenizer.encode("<|reward|>", add_special_tokens=False) == [260]
    policy = Policy(settings, tokenizer)
    assert quantisation(policy.lm.config) is None
    found = policy.lm.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-7, msg=name)

    policy.head(policy.hidden_states(torch.tensor([[5, 6, 7]]))).logsumexp(dim=-1).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.lm.parameters())
    with torch.no_grad():
        policy.lm.get_output_embeddings().weight[0] += 1.0

    assert [trial.problem for trial in try_exports(policy, tokenizer)] == [None]
    policy.lm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json"] * 4 + [".safetensors"]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, value in policy.lm.state_dict().items():
        assert torch.equal(plain.state_dict()[name], value), name
    assert AutoTokenizer.from_pretrained(tmp_path).encode("abcab") == tokenizer.encode("abcab")


def test_without_its_packages_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_module, "find_spec", lambda name: None if name == "gguf" else sys)
    with pytest.raises(UserError, match=r"policy\.gguf_file is 'x\.gguf', and .* the package gguf is needed: pip"):
        load_tokenizer(PolicySettings(str(tmp_path), gguf_file="x.gguf"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(UserError, match=r"tokenizer of policy\.path .* cannot be loaded"):
        load_tokenizer(PolicySettings(str(tmp_path), gguf_file="x.gguf"))
