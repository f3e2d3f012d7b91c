"""What is refused in a sentence when a policy is loaded, and what is mended."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Florence2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GenerationConfig,
    JetMoeConfig,
    LlamaConfig,
    PretrainedConfig,
    T5Config,
)

from laser_lightning.errors import UserError
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.policy.character_tokenizer import character_tokenizer
from laser_lightning.policy.exports import check_exports
from laser_lightning.policy.loading import load_weights, mend_generation_config
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.model import FrozenPolicy, Policy, PolicySettings, load_tokenizer, written_eos
from laser_lightning.policy.quantised import quantisation

SaveModel = Callable[..., Path]
TinyConfig = Callable[..., PretrainedConfig]


def load(path: Path, **settings: Any) -> Policy:
    """The policy of a directory."""
    chosen = PolicySettings(path=str(path), **settings)
    return Policy(chosen, load_tokenizer(chosen))


def rewrite(path: Path, **fields: Any) -> None:
    """Put other values into a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# ------------------------------------------------------------ missing weights


def without(path: Path, part: str) -> None:
    """Take the tensors with ``part`` in their names out of a checkpoint."""
    file = path / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if part not in k}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("layers.1.mlp", r"3 tensors \(model\.layers\.1\.mlp\.down_proj\.weight, .*gate_proj\.weight, .*up_proj"),
        ("lm_head", r"1 tensor \(lm_head\.weight\)"),
        # Two layers of nine tensors: q, k, v, o, gate, up, down and two norms. The first six names are shown.
        ("layers.", r"18 tensors \(model\.layers\.0\.input_layernorm\.weight, .* and 12 more\)"),
    ],
)
def test_a_checkpoint_without_some_weights_is_refused(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig, part: str, names: str
) -> None:
    path = save_model(tmp_path / "model", tiny_config(LlamaConfig))
    without(path, part)
    with pytest.raises(UserError, match=f"lacks {names}.*would start from random values"):
        load(path)


def test_tied_weights_are_not_missing(tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig) -> None:
    path = save_model(tmp_path / "model", tiny_config(LlamaConfig, tie_word_embeddings=True))
    assert not any("lm_head" in name for name in load_file(path / "model.safetensors"))
    policy = load(path)
    assert policy.lm.get_output_embeddings().weight is policy.lm.get_input_embeddings().weight


def test_weights_of_another_shape_are_refused(tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig) -> None:
    path = save_model(tmp_path / "model", tiny_config(LlamaConfig))
    rewrite(path / "config.json", intermediate_size=48)
    with pytest.raises(UserError, match=r"6 tensors \(.*layers\.0\.mlp\.down_proj\.weight \(\[32, 64\] for \[32, 48\]"):
        load(path)


# ---------------------------------------------------- what cannot be loaded

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def other_kinds(tiny_config: TinyConfig) -> dict[str, PretrainedConfig]:
    """Configs of models without a causal decoder of their own."""
    return {
        "florence2": Florence2Config(),
        "t5": T5Config(vocab_size=100, d_model=32, d_ff=64, num_layers=2, num_heads=2, d_kv=16),
    }


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("florence2", "an image-text model"),
        ("t5", "no causal language model"),
    ],
)
def test_other_kinds_of_models_are_refused(tmp_path: Path, tiny_config: TinyConfig, kind: str, what: str) -> None:
    other_kinds(tiny_config)[kind].save_pretrained(tmp_path)
    character_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"'{tmp_path}' has the type '{kind}', which is {what}: transformers 5"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model_type": "no_such"}, "model type `no_such`"),
        ({"hidden_act": "no_such"}, "KeyError: 'no_such'"),
        ({"num_attention_heads": "two"}, "num_attention_heads"),
    ],
)
def test_a_config_with_a_mistake_is_refused(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig, fields: dict[str, Any], reason: str
) -> None:
    path = save_model(tmp_path / "model", tiny_config(LlamaConfig))
    rewrite(path / "config.json", **fields)
    with pytest.raises(UserError, match=rf"(?s)of policy\.path '{path}' cannot be loaded: .*{reason}"):
        load(path)


def test_files_of_weights_that_are_none_are_refused(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig
) -> None:
    path = save_model(tmp_path / "model", tiny_config(LlamaConfig))
    (path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"model of policy\.path .* cannot be loaded: "):
        load(path)


def test_attention_that_there_is_not_is_refused(policy_dir: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be loaded: .*attn_implementation"):
        load(policy_dir, attention="no_such")


# ------------------------------------------------------- ids beyond the model


def test_a_pad_token_that_the_model_has_no_row_for_is_not_used(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig
) -> None:
    path = save_model(tmp_path / "model", tiny_config(LlamaConfig))
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == 260  # of a model with 100 rows
    tokenizer.save_pretrained(path)
    policy = load(path)
    assert policy.pad_token_id == policy.lm.generation_config.pad_token_id == 1  # that of <eos>


@pytest.mark.parametrize(
    ("saved", "source"), [(100, "generation config"), ([1, 100], "generation config"), (None, "tokenizer")]
)
def test_an_end_that_the_model_has_no_row_for_is_refused(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig, saved: Any, source: str
) -> None:
    path = save_model(tmp_path / "model", tiny_config(LlamaConfig, eos_token_id=None))
    GenerationConfig(eos_token_id=saved).save_pretrained(path)
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    tokenizer.save_pretrained(path)
    with pytest.raises(UserError, match=rf"model's {source} has the eos_token_id (100|260), .* vocabulary ends at 99"):
        load(path)


@pytest.mark.parametrize(("ends", "written"), [((1,), 1), ((1, 7), 1), ((5, 7), 5)])
def test_a_given_text_ends_as_the_engines_end_one(policy_dir: Path, ends: tuple[int, ...], written: int) -> None:
    tokenizer = load_tokenizer(PolicySettings(path=str(policy_dir)))
    assert tokenizer.eos_token_id == 1
    assert written_eos(ends, tokenizer) == written


# ----------------------------------------------------------------- training


class BitsAndBytes:
    """As much of transformers' config as is read."""

    def to_dict(self) -> dict[str, Any]:
        return {"quant_method": "bitsandbytes", "load_in_4bit": True}


@pytest.mark.parametrize("quantised", [BitsAndBytes(), BitsAndBytes().to_dict()])
def test_weights_in_few_bits_are_not_trained(policy_dir: Path, monkeypatch: pytest.MonkeyPatch, quantised: Any) -> None:
    settings = PolicySettings(path=str(policy_dir))
    lm = load_weights(settings)
    lm.config.quantization_config = quantised
    monkeypatch.setattr("laser_lightning.policy.model.load_weights", lambda settings: lm)
    with pytest.raises(UserError, match=r"is a quantised model \(bitsandbytes\), whose weights cannot be trained"):
        SupervisedModule(settings).configure_model()
    FrozenPolicy(settings, load_tokenizer(settings))  # a teacher may be


@pytest.mark.parametrize("lora", [None, LoRASettings(rank=2)])
@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "of tomorrow"])
def test_a_quantised_checkpoint_is_refused_before_its_package_is_asked_for(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig, method: str, lora: LoRASettings | None
) -> None:
    path = save_model(tmp_path / "quantised", tiny_config())
    rewrite(path / "config.json", quantization_config={"quant_method": method, "bits": 4})
    module = SupervisedModule(PolicySettings(path=str(path), lora=lora))
    with pytest.raises(UserError, match=rf"is a quantised model \({method}\), whose weights cannot be trained"):
        module.configure_model()


def test_floats_that_are_marked_as_quantised_are_trained_and_lose_the_mark(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig
) -> None:
    path = save_model(tmp_path / "marked", tiny_config())
    rewrite(path / "config.json", quantization_config={"quant_method": "mxfp4", "dequantize": True})
    module = SupervisedModule(PolicySettings(path=str(path)))
    module.configure_model()
    assert quantisation(module.policy.lm.config) is None
    check_exports(module.policy, module.tokenizer)


def test_gradient_checkpointing_where_there_is_none_is_refused(tmp_path: Path, save_model: SaveModel) -> None:
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "eos_token_id": 1}
    path = save_model(tmp_path / "model", JetMoeConfig(**sizes, num_key_value_heads=2, kv_channels=16))
    load(path)
    with pytest.raises(UserError, match="gradient_checkpointing is set, and transformers has none for JetMoeFor"):
        load(path, gradient_checkpointing=True)


# ---------------------------------------------------------------- randomness


def test_dropout_in_the_configs_within_is_switched_off(tmp_path: Path, tiny_config: TinyConfig) -> None:
    text = tiny_config(Gemma3TextConfig, head_dim=16, attention_dropout=0.5, bos_token_id=2)
    vision = TOWER | {"image_size": 28, "patch_size": 14, "attention_dropout": 0.25}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=99)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    character_tokenizer().save_pretrained(tmp_path)
    policy = load(tmp_path)
    assert policy.lm.training
    config = policy.lm.config
    assert (config.text_config.attention_dropout, config.vision_config.attention_dropout) == (0.0, 0.0)


# ------------------------------------------------------------------- exports


@pytest.mark.parametrize(
    ("contradictory", "left"),
    [
        ({"do_sample": False, "temperature": 0.6, "top_p": 0.9}, {"do_sample": False}),  # as of Llama-2-chat
        ({"num_beams": 1, "length_penalty": 2.0, "repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
    ],
)
def test_a_generation_config_that_cannot_be_saved_is_mended(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig, contradictory: dict[str, Any], left: dict[str, Any]
) -> None:
    path = save_model(tmp_path / "model", tiny_config(LlamaConfig))
    rewrite(path / "generation_config.json", **contradictory)
    module = SupervisedModule(PolicySettings(str(path)))
    with pytest.warns(UserWarning, match="(temperature, top_p, which have|length_penalty, which has) no effect"):
        module.configure_model()
    module.policy.lm.save_pretrained(tmp_path / "export")
    saved = json.loads((tmp_path / "export" / "generation_config.json").read_text())
    assert not saved.keys() & {"temperature", "top_p", "length_penalty"}
    assert left.items() <= saved.items()


def test_a_generation_config_without_a_remedy_is_refused(policy_dir: Path) -> None:
    lm = load(policy_dir).lm
    lm.generation_config.cache_implementation = "no_such"
    with pytest.raises(UserError, match=r"generation_config\.json of policy\.path 'x' cannot be saved, .*no_such"):
        mend_generation_config(lm, "x")


def test_attention_does_without_plans_for_each_shape() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        load_weights(PolicySettings("embedded"))
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
