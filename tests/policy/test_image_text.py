"""Image-text models: their text part is trained, the rest is frozen, and the whole is exported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3TextConfig,
    Llama4Config,
    LlamaConfig,
    LlavaConfig,
    Mistral3Config,
    MistralConfig,
    MllamaConfig,
    PaliGemmaConfig,
    PixtralVisionConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen3_5Config,
    SiglipVisionConfig,
)

from laser_lightning.cli.command_line import main
from laser_lightning.policy.character_tokenizer import character_tokenizer
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.model import Policy, PolicySettings, load_tokenizer
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.rollout.self_test import SelfTest

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGES = TOWER | {"image_size": 28, "patch_size": 14}
QWEN_IMAGES = {"depth": 1, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 32, "intermediate_size": 64}
TEXT = TOWER | {"num_key_value_heads": 1, "head_dim": 16, "vocab_size": 100, "max_position_embeddings": 256}
TEXT |= {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 2, "initializer_range": 0.3}
ROTATION = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
LINEAR = {f"linear_{name}": size for name, size in (("num_value_heads", 2), ("num_key_heads", 2))}
LINEAR |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
WHOLE = {
    "gemma3": lambda: Gemma3Config(
        text_config=Gemma3TextConfig(**TEXT),
        vision_config=SiglipVisionConfig(**IMAGES),
        mm_tokens_per_image=4,
        image_token_index=99,
    ),
    "mistral3": lambda: Mistral3Config(
        text_config=MistralConfig(**TEXT),
        vision_config=PixtralVisionConfig(**IMAGES, head_dim=16),
        image_token_index=99,
    ),
    "llava": lambda: LlavaConfig(
        text_config=LlamaConfig(**TEXT), vision_config=CLIPVisionConfig(**IMAGES), image_token_index=99
    ),
    "qwen2_5_vl": lambda: Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": ROTATION}, vision_config=QWEN_IMAGES, image_token_id=99
    ),
}
# Of these AutoModelForCausalLM makes a text part that, exported, no auto class would load.
MLLAMA_TEXT = {name: size for name, size in TEXT.items() if name != "head_dim"} | {"cross_attention_layers": []}
MLLAMA_IMAGES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_global_layers": 1}
MLLAMA_IMAGES |= {"attention_heads": 2, "image_size": 28, "patch_size": 14, "vision_output_dim": 64}
WHOLE["mllama"] = lambda: MllamaConfig(
    text_config=MLLAMA_TEXT,
    vision_config=MLLAMA_IMAGES | {"intermediate_layers_indices": [0]},
    image_token_index=99,
)
TEXT_ALONE = {
    "qwen3_5": lambda: Qwen3_5Config(
        text_config=TEXT | LINEAR | {"layer_types": ["full_attention"], "rope_parameters": ROTATION},
        vision_config=QWEN_IMAGES | {"num_position_embeddings": 16},
        image_token_id=99,
    ),
    "llama4": lambda: Llama4Config(
        text_config=TEXT | {"num_local_experts": 2, "intermediate_size_mlp": 64},
        vision_config=IMAGES | {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
    ),
}
PROMPTS = [[21, 22, 40, 41], [40], [33, 33, 57, 58, 60, 61]]


def save(path: Path, config: PretrainedConfig) -> PreTrainedModel:
    """Write a random image-text model with the character tokenizer; return it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = AutoModelForImageTextToText.from_config(config)
    lm.save_pretrained(path)
    character_tokenizer().save_pretrained(path)
    return lm.eval()


def load(path: Path, **settings: Any) -> Policy:
    """The policy of a directory."""
    chosen = PolicySettings(path=str(path), **settings)
    return Policy(chosen, load_tokenizer(chosen))


@pytest.mark.parametrize("kind", list(WHOLE))
def test_the_rest_is_frozen_and_text_is_right(tmp_path: Path, plain_pass: Callable, kind: str) -> None:
    save(tmp_path, WHOLE[kind]())
    said = r"is an image-text model, of which the text part is trained\. The rest is frozen: .*(vision|visual)\w* \("
    with pytest.warns(UserWarning, match=said):
        policy = load(tmp_path)
    assert SelfTest(policy).head().passed
    assert SelfTest(policy).causality().passed
    trained = {name for name, parameter in policy.lm.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "vis" in name or "projector" in name} == set()
    engine, sampling = TransformersEngine(), Sampling(max_response_tokens=6)
    rollouts = engine.generate(policy, PROMPTS, 2, sampling, (3,), torch.Generator().manual_seed(0))
    policy.lm.eval()
    for row, response in enumerate(rollouts.responses()):
        with torch.no_grad():
            plain = plain_pass(policy.lm, PROMPTS[row // 2], response)
        own = rollouts.sampling_log_probs[row, : len(response)]
        torch.testing.assert_close(own, plain.log_probs, rtol=0, atol=2e-5)
    # Every weight that is trained has a gradient, or DDP would wait for one.
    policy.head(policy.hidden_states(torch.arange(20, 30)[None])).logsumexp(-1).sum().backward()
    assert {name for name, parameter in policy.lm.named_parameters() if parameter.grad is not None} == trained


def test_adapters_of_the_rest_are_frozen_too(tmp_path: Path) -> None:
    save(tmp_path, WHOLE["mistral3"]())
    with pytest.warns(UserWarning, match="The rest is frozen"):
        policy = load(tmp_path, lora=LoRASettings(rank=2))
    trained = [name for name, parameter in policy.lm.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("language_model" in name and "lora_" in name for name in trained)


@pytest.mark.parametrize("kind", list(TEXT_ALONE))
def test_the_text_part_is_loaded_alone_where_transformers_does_so(tmp_path: Path, kind: str) -> None:
    whole = save(tmp_path, TEXT_ALONE[kind]())
    with pytest.warns(
        UserWarning, match=rf"the type '{kind}', of which transformers loads the text part as a \w+ForCau"
    ):
        policy = load(tmp_path)
    assert SelfTest(policy).head().passed
    language_model = whole.get_decoder()
    theirs = getattr(language_model, "model", language_model).state_dict()
    ours = policy.decoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_one_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    text, images = {**TEXT, "model_type": "gemma"}, SiglipVisionConfig(**IMAGES, projection_dim=32)
    save(tmp_path, PaliGemmaConfig(text_config=text, vision_config=images, projection_dim=32, image_token_index=99))
    finding = SelfTest(load(tmp_path)).causality()
    assert not finding.passed
    assert "sees the tokens behind it" in finding.cause


RUN = """
model:
  init_args:
    policy: {{path: {path}}}
    self_reward:
      class_path: laser_lightning.LastTokenSelfReward
      init_args: {{token: <|reward|>, beta: 0.5, reference: -20.0}}
    verifier: {{class_path: laser_lightning.verifiers.ExactVerifier, init_args: {{pattern: '(.+)'}}}}
    group_size: 2
    sampling: {{max_response_tokens: 4}}
    update: {{entropy_coef: 0.1}}
    optimizer: {{learning_rate: 1.0e-2}}
    verification: {{workers: 0}}
    evaluation: {{at_start: false, at_end: false}}
data:
  init_args:
    train: {{class_path: laser_lightning.data.ArithmeticSource, init_args: {{split: train, size: 4}}}}
    prompts_per_step: 2
trainer: {{max_steps: 1, accelerator: cpu, devices: 1, enable_progress_bar: false, logger: null}}
export: {{class_path: laser_lightning.callbacks.HuggingFaceExport}}
solution_log: null
figures: null
report: null
summary: null
"""


def test_the_export_is_a_whole_image_text_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = save(Path("start"), WHOLE["mistral3"]()).state_dict()
    Path("run.yaml").write_text(RUN.format(path=tmp_path / "start"))
    assert main(["fit", "--config", "run.yaml", "--run_dir", "run"]) == 0
    export = Path("run/export/last")
    lm, found = AutoModelForImageTextToText.from_pretrained(export, output_loading_info=True)
    assert not any(found.values())
    after = lm.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all("language_model" in name or "lm_head" in name for name in changed)
    assert "from transformers import AutoModelForImageTextToText, AutoTokenizer" in (export / "README.md").read_text()
    assert load(export).lm.state_dict().keys() == after.keys()  # as the scorer and another run load it
