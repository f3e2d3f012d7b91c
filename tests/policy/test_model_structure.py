"""Where models keep their decoder, how far their positions reach, and which ones look ahead."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertGenerationConfig,
    Gemma3TextConfig,
    Llama4TextConfig,
    LlamaConfig,
    ModernBertDecoderConfig,
    Phi3Config,
    PretrainedConfig,
    RecurrentGemmaConfig,
)

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.policy.structure import position_limit, shared_rotation_limit
from laser_lightning.records.batching import Rollouts, micro_batches
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.rollout.self_test import SelfTest


@pytest.fixture
def load(
    save_model: Callable[..., Path], tiny_config: Callable[..., PretrainedConfig], make_policy: Callable, tmp_path: Path
) -> Callable[..., Policy]:
    """``load(config_class, **fields)`` is the policy of a tiny random model."""
    return lambda kind, **fields: make_policy(save_model(tmp_path, tiny_config(kind, **fields)))


# ------------------------------------------------------------- its two halves

LLAMA_4 = {"num_local_experts": 2, "intermediate_size_mlp": 64, "head_dim": 16, "attention_chunk_size": 8}
GRIFFIN = {"lru_width": 32, "block_types": ["recurrent", "attention"], "attention_window_size": 4, "head_dim": 16}


@pytest.mark.parametrize(
    ("config_class", "fields"),
    [
        (Llama4TextConfig, LLAMA_4),  # transformers takes the whole model for its decoder
        (RecurrentGemmaConfig, GRIFFIN | {"logits_soft_cap": 2.0}),  # a name of its own for the cap
    ],
)
def test_decoder_and_head_are_the_model(
    load: Callable[..., Policy], config_class: type[PretrainedConfig], fields: dict[str, Any]
) -> None:
    policy = load(config_class, **fields)
    assert SelfTest(policy).head().passed
    ids = torch.tensor([[20, 30, 40, 50, 60, 70]])
    with torch.no_grad():
        ours, theirs = policy.head(policy.hidden_states(ids)), policy.lm(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_head_of_several_layers_is_refused(load: Callable[..., Policy]) -> None:
    policy = load(ModernBertDecoderConfig, bos_token_id=0, cls_token_id=0, sep_token_id=1)
    finding = SelfTest(policy).head()
    assert not finding.passed
    assert "ModernBertDecoderForCausalLM changes its logits after the output embedding" in finding.cause


# -------------------------------------------------------------- looking ahead


@pytest.mark.parametrize(
    ("config_class", "fields", "remedy"),
    [
        (
            Gemma3TextConfig,
            {"use_bidirectional_attention": True, "head_dim": 16},
            "set use_bidirectional_attention to false",
        ),
        (BertGenerationConfig, {"is_decoder": False}, "set is_decoder to true"),
    ],
)
def test_models_that_look_ahead_are_refused(
    load: Callable[..., Policy], config_class: type[PretrainedConfig], fields: dict[str, Any], remedy: str
) -> None:
    finding = SelfTest(load(config_class, **fields)).causality()
    assert not finding.passed
    assert "a place of a sequence sees the tokens behind it" in finding.cause
    assert finding.remedy.startswith(remedy)


def test_causal_models_are_welcome(family: tuple[Path, float], make_policy: Callable[..., Policy]) -> None:
    assert SelfTest(make_policy(family[0])).causality().passed


# ------------------------------------------------------------------ positions

LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
LONG |= {"original_max_position_embeddings": 16}
SAME = LONG | {"short_factor": [4.0] * 8}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("config_class", "rope", "shared", "limit"),
    [
        (Phi3Config, LONG, 16, 16),
        (Phi3Config, SAME, None, 256),
        (LlamaConfig, DYNAMIC, 256, 256),
        (LlamaConfig, YARN, None, 256),  # the same factors for all
        (LlamaConfig, None, None, 256),
    ],
)
def test_limits(
    tiny_config: Callable[..., PretrainedConfig],
    config_class: type[PretrainedConfig],
    rope: dict[str, Any] | None,
    shared: int | None,
    limit: int,
) -> None:
    more = {} if rope is None else {"rope_parameters": rope, "original_max_position_embeddings": 16}
    config = tiny_config(config_class, **more)
    assert (shared_rotation_limit(config), position_limit(config)) == (shared, limit)


def micro_batch(policy: Policy, length: int) -> Any:
    """Two solutions, of 10 tokens and of this many."""
    lengths = torch.tensor([5, length - 5])
    ids = torch.arange(8, 8 + 2 * (length - 5)).view(2, -1) % 90
    prompts = torch.tensor([[9, 8, 7, 6, 5], [5, 6, 7, 8, 9]])
    nothing = torch.zeros(ids.shape)
    rollouts = Rollouts(prompts, torch.tensor([5, 5]), ids, lengths, lengths > 0, nothing, nothing[:, :1])
    return micro_batches(rollouts, torch.arange(2), 1000, policy.pad_token_id)[0]


def test_past_the_original_length_sequences_would_depend_on_their_neighbours(load: Callable[..., Policy]) -> None:
    policy = load(Phi3Config, rope_parameters=LONG, original_max_position_embeddings=16)
    with torch.no_grad():  # the shorter one changes with the length of the other
        short, long = (policy.hidden_states(torch.arange(40, 40 + width)[None])[0, 5] for width in (16, 17))
        assert float((short - long).norm() / long.norm()) > 0.01
        policy(micro_batch(policy, 16), (3,))
        with pytest.raises(
            UserError, match=r"A sequence has 17 tokens, .* longer than 16, .* depend on the neighbours"
        ):
            policy(micro_batch(policy, 17), (3,))


def test_the_engine_refuses_them_before_it_draws(load: Callable[..., Policy]) -> None:
    policy = load(Phi3Config, rope_parameters=LONG, original_max_position_embeddings=16)
    with pytest.raises(UserError, match=r"max_response_tokens = 12 do not fit into the 16 positions"):
        TransformersEngine().generate(policy, [[9, 8, 7, 6, 5]], 2, Sampling(12), (3,), torch.Generator())


def test_with_equal_factors_nothing_depends_on_the_length(load: Callable[..., Policy]) -> None:
    policy = load(Phi3Config, rope_parameters=SAME, original_max_position_embeddings=16)
    with torch.no_grad():
        short, long = (policy.hidden_states(torch.arange(40, 40 + width)[None])[0, 5] for width in (16, 17))
        torch.testing.assert_close(short, long, rtol=0, atol=1e-5)
        policy(micro_batch(policy, 17), (3,))
