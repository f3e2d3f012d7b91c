"""Adapters of models whose tensors peft renames on loading, and of text parts of image-text models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText, Qwen3_5Config

from laser_lightning.errors import UserError
from laser_lightning.policy import lora
from laser_lightning.policy.character_tokenizer import character_tokenizer
from laser_lightning.policy.exports import check_exports, try_exports
from laser_lightning.policy.lora import LoRASettings, save_adapter
from laser_lightning.policy.model import Policy, PolicySettings, load_tokenizer

IDS = torch.arange(3, 27).view(2, 12)
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 16}


@pytest.fixture
def renamed(tmp_path: Path, save_model: Callable[..., Path], tiny_config: Callable[..., Any]) -> Path:
    """A model whose ``mlp.shared_experts.`` is ``mlp.shared_expert.`` in checkpoints.

    transformers renames by the pattern ``mlp.shared_expert.``, whose dots are any character, so that peft makes
    ``mlp.shared_experts..up_proj`` of ``mlp.shared_experts.up_proj``.
    """
    if "laguna" not in CONFIG_MAPPING:
        pytest.skip("this transformers has no Laguna")
    config = tiny_config(
        CONFIG_MAPPING["laguna"],
        layer_types=["full_attention"] * 2,
        mlp_layer_types=["dense", "sparse"],
        shared_expert_intermediate_size=24,
        num_attention_heads_per_layer=[2, 2],
        **EXPERTS,
    )
    return save_model(tmp_path / "base", config)


def adapted(path: Path) -> Policy:
    """A policy with random adapters."""
    settings = PolicySettings(path=str(path), lora=LoRASettings(rank=2))
    policy = Policy(settings, load_tokenizer(settings))
    generator = torch.Generator().manual_seed(5)
    for parameter in policy.lm.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy


def saved(policy: Policy, directory: Path) -> Path:
    """The policy's adapter in a directory."""
    directory.mkdir()
    save_adapter(policy.lm, policy.lm.state_dict(), directory)
    return directory


def logits_of(lm: Any) -> Tensor:
    with torch.no_grad():
        return lm(input_ids=IDS, use_cache=False).logits


def test_an_adapter_has_the_checkpoints_names_where_peft_would_misread_the_models(
    renamed: Path, tmp_path: Path
) -> None:
    policy = adapted(renamed)
    assert all(trial.problem is None for trial in try_exports(policy, character_tokenizer()))
    adapter = saved(policy, tmp_path / "adapter")
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        shared = {name.split(".mlp.")[1].split(".")[0] for name in file.keys() if "shared" in name}  # noqa: SIM118
    assert shared == {"shared_expert"}
    plain = AutoModelForCausalLM.from_pretrained(renamed)
    without = logits_of(plain)
    read = PeftModel.from_pretrained(plain, adapter)
    torch.testing.assert_close(logits_of(read), logits_of(policy.lm), rtol=0, atol=1e-5)
    assert (logits_of(read) - without).abs().max() > 0.1


def test_where_neither_names_are_found_again_the_adapter_is_refused_and_the_merged_model_is_not(
    renamed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "revert_weight_conversion", lambda _, weights: weights)
    policy = adapted(renamed)
    sentence = r"adapter export of LagunaForCausalLM does not work \(peft does not find .*: export the merged model"
    with pytest.raises(UserError, match=sentence):
        check_exports(policy, character_tokenizer(), adapter=True)
    with pytest.warns(UserWarning, match=sentence):
        check_exports(policy, character_tokenizer())


def test_the_adapter_of_a_text_part_is_that_of_the_causal_lm(tmp_path: Path) -> None:
    layers = {"layer_types": ["linear_attention", "full_attention"], "linear_num_value_heads": 2}
    layers |= {"linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"vocab_size": 100, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 2}
    rotation = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    text = sizes | layers | tokens | {"num_key_value_heads": 1, "head_dim": 16, "rope_parameters": rotation}
    images = {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 32, "intermediate_size": 64}
    base, config = tmp_path / "base", Qwen3_5Config(text_config=text | {"initializer_range": 0.3}, vision_config=images)
    AutoModelForImageTextToText.from_config(config).save_pretrained(base)
    character_tokenizer().save_pretrained(base)
    with pytest.warns(UserWarning, match="transformers loads the text part"):
        policy = adapted(base)
    assert all(trial.problem is None for trial in try_exports(policy, character_tokenizer()))
    adapter = saved(policy, tmp_path / "adapter")
    read = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    torch.testing.assert_close(logits_of(read), logits_of(policy.lm), rtol=0, atol=1e-5)
