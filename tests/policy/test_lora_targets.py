"""LoRA on mixtures of experts and hybrids: what gets adapters, their gradients, and what the exports hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    FalconH1Config,
    GptOssConfig,
    GraniteMoeConfig,
    JambaConfig,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3MoeConfig,
    Zamba2Config,
)

from laser_lightning.errors import UserError
from laser_lightning.policy.exports import try_exports
from laser_lightning.policy.lora import LoRASettings, merge_adapter, merged_weights, save_adapter
from laser_lightning.policy.lora_targets import choose_targets
from laser_lightning.policy.model import Policy, PolicySettings, load_tokenizer
from laser_lightning.rollout.vllm.engine import hf_weights

MakePolicy = Callable[..., Policy]
SaveModel = Callable[..., Path]
TinyConfig = Callable[..., PretrainedConfig]

IDS = torch.arange(3, 27).view(2, 12)

LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
MIXTURES: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "mixtral": (MixtralConfig, {"num_local_experts": 4}),
    "qwen3_moe": (
        Qwen3MoeConfig,
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 16},
    ),
    # a dense layer below, and an expert that all tokens go through: linear layers with the names that experts had
    "deepseek_v3": (
        DeepseekV3Config,
        {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 1, "topk_group": 1}
        | {"first_k_dense_replace": 1, "num_key_value_heads": 2}
        | LATENT,
    ),
    # weights of experts are [experts, in, out] here
    "gpt_oss": (GptOssConfig, {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}),
    # a module for each of an expert's two weights
    "granitemoe": (GraniteMoeConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}),
}
STATE_SPACE = {"mamba_d_state": 8, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_chunk_size": 8}
HYBRIDS: dict[str, tuple[type[PretrainedConfig], dict[str, Any], set[str]]] = {
    "falcon_h1": (
        FalconH1Config,
        {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16} | STATE_SPACE,
        {"out_proj"},
    ),
    "jamba": (
        JambaConfig,
        {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
        | {"num_experts": 4, "mamba_d_state": 8, "use_mamba_kernels": False},
        {"dt_proj"},
    ),
    # one block of attention stands at two depths
    "zamba2": (
        Zamba2Config,
        {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "hybrid"], "hybrid_layer_ids": [1, 2]}
        | {"n_mamba_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 1, "mamba_d_state": 8, "num_mem_blocks": 1}
        | {"attention_head_dim": 32, "attention_hidden_size": 64, "chunk_size": 8, "initializer_range": 0.1},
        {"out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj", "0", "1"},
    ),
}


@pytest.fixture
def base(request: pytest.FixtureRequest, tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig) -> Path:
    """Directory of a tiny model, of the kind that the test names."""
    config_class, fields = (MIXTURES | HYBRIDS)[request.param][:2]
    return save_model(tmp_path / "base", tiny_config(config_class, **fields))


def adapted(make_policy: MakePolicy, base: Path, experts: bool = False) -> Policy:
    policy = make_policy(base, lora=LoRASettings(rank=3, alpha=6.0, experts=experts))
    generator = torch.Generator().manual_seed(5)
    for name, parameter in policy.lm.named_parameters():
        if ".lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy


def logits_of(lm: Any) -> Tensor:
    return lm(input_ids=IDS, use_cache=False).logits


def tensors_of(directory: Path) -> dict[str, list[int]]:
    """Names and shapes of a checkpoint's tensors."""
    with safe_open(directory / "model.safetensors", "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def leaves_with_adapters(lm: PreTrainedModel) -> set[str]:
    return {name.split(".lora_")[0].rpartition(".")[2] for name, p in lm.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("experts", [False, True])
@pytest.mark.parametrize("base", MIXTURES, indirect=True)
def test_all_exports_of_a_mixture_are_the_trained_model(
    base: Path, experts: bool, tmp_path: Path, make_policy: MakePolicy
) -> None:
    policy = adapted(make_policy, base, experts)
    lm = policy.lm
    logits = logits_of(lm)
    logits.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in lm.parameters() if p.requires_grad)  # adapters of all experts learn
    assert (logits - logits_of(make_policy(base).lm)).abs().max() > 0.1

    state = lm.state_dict()
    merged = dict(merged_weights(lm, state))
    lm.save_pretrained(tmp_path / "plain", state_dict=dict(merged))
    assert tensors_of(tmp_path / "plain") == tensors_of(base)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    torch.testing.assert_close(logits_of(plain), logits, rtol=0, atol=1e-4)

    # vLLM is handed a checkpoint's tensors.
    handed = dict(hf_weights(policy))
    with safe_open(tmp_path / "plain" / "model.safetensors", "pt") as file:
        assert all(torch.equal(file.get_tensor(name), handed[name]) for name in tensors_of(tmp_path / "plain"))

    # peft reads the adapter, computes with it, and merges it, as we do.
    (tmp_path / "adapter").mkdir()
    save_adapter(lm, state, tmp_path / "adapter")
    read = PeftModel.from_pretrained(make_policy(base).lm, tmp_path / "adapter")
    torch.testing.assert_close(logits_of(read), logits, rtol=0, atol=1e-4)
    theirs = merge_adapter(make_policy(base).lm, tmp_path / "adapter").state_dict()
    assert theirs.keys() == merged.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(merged[name], value, rtol=0, atol=1e-6)

    trials = try_exports(policy, load_tokenizer(PolicySettings(str(base))))
    assert [(trial.way, trial.problem) for trial in trials] == [("merged export", None), ("adapter export", None)]


@pytest.mark.parametrize("base", ["deepseek_v3"], indirect=True)
def test_names_of_layers_stay_names_of_layers_in_a_mixture(base: Path, make_policy: MakePolicy) -> None:
    # peft itself takes gate_proj, up_proj and down_proj for the weights of experts in this model
    policy = make_policy(base, lora=LoRASettings(rank=2, target_modules=["gate_proj", "up_proj", "down_proj"]))
    layers = ("model.layers.0.mlp", "model.layers.1.mlp.shared_experts")
    assert {name.split(".lora_")[0] for name, p in policy.lm.named_parameters() if p.requires_grad} == {
        f"{layer}.{half}_proj" for layer in layers for half in ("gate", "up", "down")
    }
    assert str(policy.adapters).startswith("LoRA adapts 6 linear layers (down_proj, gate_proj, up_proj); without")
    assert "the fused weights of experts (down_proj, gate_up_proj), " in str(policy.adapters)


@pytest.mark.parametrize("base", HYBRIDS, indirect=True)
def test_a_hybrid_has_adapters_where_they_learn_and_can_be_merged(
    base: Path, request: pytest.FixtureRequest, tmp_path: Path, make_policy: MakePolicy
) -> None:
    policy = adapted(make_policy, base)
    lm, adapters = policy.lm, policy.adapters
    assert adapters is not None
    without = {name.rpartition(".")[2] for names in adapters.left_out.values() for name in names}
    assert without == HYBRIDS[request.node.callspec.params["base"]][2]
    policy.check_adapters()
    logits = logits_of(lm)
    logits.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for p in lm.parameters() if p.requires_grad)
    lm.save_pretrained(tmp_path / "plain", state_dict=dict(merged_weights(lm, lm.state_dict())))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    torch.testing.assert_close(logits_of(plain), logits, rtol=0, atol=1e-4)
    assert all(trial.problem is None for trial in try_exports(policy, load_tokenizer(PolicySettings(str(base)))))


@pytest.mark.parametrize(
    ("base", "name", "sentence"),
    [
        ("mixtral", "gate_up_proj", "a weight of all experts together: set policy.lora.experts to true"),
        ("mixtral", "experts", "a weight of all experts together: set policy.lora.experts to true"),
        ("jamba", "dt_proj", "the name of layers whose weight is read past the layer: choose from"),
        ("zamba2", "q_proj", "the name of layers whose weight other layers share: choose from in_proj"),
    ],
    indirect=["base"],
)
def test_names_of_weights_without_adapters_are_refused(
    base: Path, name: str, sentence: str, make_policy: MakePolicy
) -> None:
    with pytest.raises(UserError, match=f"policy.lora.target_modules has '{name}', which is {sentence}"):
        make_policy(base, lora=LoRASettings(target_modules=[name]))


def test_experts_are_refused_in_a_dense_model(make_policy: MakePolicy) -> None:
    with pytest.raises(UserError, match=r"policy\.lora\.experts is set, and Qwen2ForCausalLM has no fused weights"):
        make_policy(lora=LoRASettings(experts=True))


def test_only_layers_that_compute_a_product_with_their_weight_are_chosen(tiny_config: TinyConfig) -> None:
    class Scaled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    lm = AutoModelForCausalLM.from_config(tiny_config(Qwen2Config))
    lm.model.layers[0].mlp.up_proj = Scaled(32, 64, bias=False)
    lm.model.layers[1].mlp.up_proj.weight = lm.model.layers[1].mlp.gate_proj.weight
    found = choose_targets(lm, None, experts=False)
    # seven in each of two layers, without one of its own kind and two that share a weight
    assert len(found.layers) == 11
    assert found.left_out == {
        "which compute more than a linear layer": ("model.layers.0.mlp.up_proj",),
        "whose weight other layers share": ("model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"),
    }


def test_a_layer_that_is_never_called_is_refused(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(lora=LoRASettings())
    policy.check_adapters()
    layer = policy.lm.model.layers[1]
    monkeypatch.setattr(layer.mlp, "forward", lambda hidden: hidden)
    with pytest.raises(UserError, match=r"does not call 3 of the layers with adapters \(down_proj, gate_proj, up_proj"):
        policy.check_adapters()
    monkeypatch.setattr(layer.mlp, "forward", lambda hidden: hidden.weight)
    with pytest.raises(UserError, match=r"does not run with adapters in its layers .*name those that can have some"):
        policy.check_adapters()


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, make_policy: MakePolicy) -> None:
    policy = make_policy(lora=LoRASettings(target_modules=["q_proj"]))
    state = {name: value for name, value in policy.lm.state_dict().items() if "layers.1" not in name}
    save_adapter(policy.lm, state, tmp_path)
    with pytest.raises(UserError, match="is not one of its base model: Found missing adapter keys"):
        merge_adapter(make_policy().lm, tmp_path)


def test_checkpoints_of_runs_without_experts_say_nothing_of_them() -> None:
    values = {"rank": 2, "alpha": 32.0, "target_modules": None, "use_rslora": False}  # as version 0.1 wrote
    assert LoRASettings(rank=2).fingerprint() == values
    assert LoRASettings(rank=2, experts=True).fingerprint() == values | {"experts": True}
