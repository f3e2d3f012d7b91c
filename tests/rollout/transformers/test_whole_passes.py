"""Decoding without a cache against plain forward passes, with models that have none and models that do."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BloomConfig,
    Lfm2Config,
    Mamba2Config,
    MambaConfig,
    MiniMaxConfig,
    NemotronHConfig,
    OpenAIGPTConfig,
    PretrainedConfig,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts, micro_batches
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.rollout.transformers import whole_passes
from laser_lightning.rollout.transformers.whole_passes import cache_obstacle

Z = 3  # <|reward|>
GROUP = 3
PROMPTS = [[21, 22, 0, 1], [40], [33, 3, 3, 57, 58, 0, 61], [22, 9, 8, 7, 6, 5, 4, 5, 6, 7, 8]]
LIMIT = 8
MAKE: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "mamba": (MambaConfig, {"state_size": 8}),
    "mamba2": (Mamba2Config, {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8, "chunk_size": 4}),
    "rwkv": (RwkvConfig, {"context_length": 64}),
    "openai-gpt": (OpenAIGPTConfig, {}),
    "bart": (BartConfig, {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64}),
    "minimax": (MiniMaxConfig, {"num_local_experts": 2, "head_dim": 16, "block_size": 4}),
    "nemotron_h": (
        NemotronHConfig,
        {
            "layers_block_type": ["mamba", "attention"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "n_groups": 1,
            "chunk_size": 4,
            "ssm_state_size": 8,
            "head_dim": 16,
        },
    ),
    "only linear layers": (
        Qwen3NextConfig,
        {
            "layer_types": ["linear_attention"] * 2,
            "num_experts": 0,
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
    ),
    "recurrent_gemma": (
        RecurrentGemmaConfig,
        {"lru_width": 32, "block_types": ["recurrent", "attention"], "attention_window_size": 4, "head_dim": 16},
    ),
}


@pytest.fixture
def load(
    save_model: Callable[..., Path], tiny_config: Callable[..., PretrainedConfig], make_policy: Callable, tmp_path: Path
) -> Callable[..., Policy]:
    """``load(config_class, **fields)`` is the policy of a tiny random model."""
    return lambda kind, **fields: make_policy(save_model(tmp_path, tiny_config(kind, **fields)), eos_bias=3.5)


def generate(policy: Policy, temperature: float = 1.0, **engine: Any) -> Rollouts:
    made = TransformersEngine(**engine)
    sampling = Sampling(max_response_tokens=LIMIT, temperature=temperature)
    return made.generate(policy, PROMPTS, GROUP, sampling, (Z,), torch.Generator().manual_seed(0))


def check(policy: Policy, rollouts: Rollouts, plain_pass: Callable) -> None:
    """Log-probs and scores are those of a plain pass over each sequence alone."""
    policy.lm.eval()
    assert bool(rollouts.finished.any())
    assert len(set(rollouts.response_lengths.tolist())) > 1
    for row, response in enumerate(rollouts.responses()):
        with torch.no_grad():
            plain = plain_pass(policy.lm, PROMPTS[row // GROUP], response)
        own = rollouts.sampling_log_probs[row, : len(response)]
        torch.testing.assert_close(own, plain.log_probs, rtol=0, atol=2e-5)
        score = plain.after_last[Z] if rollouts.finished[row] else torch.tensor(torch.nan)
        torch.testing.assert_close(rollouts.reward_token_log_probs[row, 0], score, rtol=0, atol=2e-5, equal_nan=True)


@pytest.mark.parametrize("most_rows", [1024, GROUP], ids=["at once", "refilled"])
@pytest.mark.parametrize("kind", list(MAKE))
def test_models_without_a_cache_that_is_right(
    load: Callable[..., Policy], plain_pass: Callable, kind: str, most_rows: int
) -> None:
    """With prompts of unequal length. Their steps with a cache are up to 8 nats off, or end in an error."""
    config_class, fields = MAKE[kind]
    policy = load(config_class, **fields)
    with pytest.warns(UserWarning, match="Decoding without a cache, since .*: every token costs a pass over its whole"):
        rollouts = generate(policy, max_batch_size=most_rows)
    check(policy, rollouts, plain_pass)
    policy.lm.train()  # and the pass of the update, right-padded, says the same
    with torch.no_grad():
        for batch in micro_batches(rollouts, torch.arange(len(rollouts)), 60, policy.pad_token_id):
            own = rollouts.sampling_log_probs[batch.rows, : batch.response_mask.shape[1]]
            again = policy(batch, (Z,)).log_probs
            torch.testing.assert_close(again, own.where(batch.response_mask, 0.0), rtol=0, atol=2e-5)


@pytest.mark.parametrize("places", [1, 3 * 12, 16_384])
def test_any_model_can_be_decoded_without(
    family: tuple[Path, float],
    make_policy: Callable[..., Policy],
    plain_pass: Callable,
    monkeypatch: pytest.MonkeyPatch,
    places: int,
) -> None:
    """However many rows go through a pass together; the same responses as with a cache, where none is drawn."""
    monkeypatch.setattr(whole_passes, "MOST_PLACES", places)
    policy = make_policy(family[0], eos_bias=family[1])
    check(policy, generate(policy, use_cache=False), plain_pass)
    without, with_cache = (generate(policy, 0, use_cache=use) for use in (False, True))
    assert torch.equal(without.response_ids, with_cache.response_ids)
    assert torch.equal(without.finished, with_cache.finished)


def test_a_pass_over_each_whole_sequence_for_each_token(make_policy: Callable[..., Policy]) -> None:
    policy = make_policy(eos_bias=-60.0)
    shapes: list[tuple[int, ...]] = []
    policy.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    generate(policy, use_cache=False)
    # Each prompt once, then every solution, 11 being the tokens of the longest prompt.
    assert shapes == [(4, 11)] + [(12, 11 + drawn) for drawn in range(1, LIMIT)]


OBSTACLES = [
    (
        MambaConfig,
        {"state_size": 8},
        "MambaModel|no layer of MambaModel is attention",
    ),  # its name for the cache changed
    (OpenAIGPTConfig, {}, "OpenAIGPTModel takes no usual cache"),
    (MiniMaxConfig, {"num_local_experts": 2, "head_dim": 16}, "MiniMaxModel takes no usual cache"),
    (BartConfig, {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 2}, "BartDecoder takes no positions"),
    (BloomConfig, {}, None),  # follows the mask
    (Lfm2Config, {"layer_types": ["conv", "full_attention"]}, None),
]


@pytest.mark.parametrize(("config_class", "fields", "reason"), OBSTACLES, ids=[kind.__name__ for kind, *_ in OBSTACLES])
def test_what_speaks_against_a_cache(
    load: Callable[..., Policy], config_class: type[PretrainedConfig], fields: dict[str, Any], reason: str | None
) -> None:
    found = cache_obstacle(load(config_class, **fields))
    assert found is None if reason is None else found is not None and re.match(reason, found)


def test_it_is_said_once_and_not_where_it_was_asked_for(load: Callable[..., Policy]) -> None:
    policy, engine = load(OpenAIGPTConfig), TransformersEngine()
    rollout = (policy, PROMPTS, GROUP, Sampling(max_response_tokens=2), (Z,), torch.Generator())
    with pytest.warns(UserWarning, match="Decoding without a cache, since OpenAIGPTModel takes no usual cache"):
        engine.generate(*rollout)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.generate(*rollout)
        TransformersEngine(use_cache=False).generate(*rollout)


def test_compiled_steps_need_a_cache(load: Callable[..., Policy]) -> None:
    with pytest.raises(UserError, match=r"engine\.use_cache is false: set engine\.compile to false"):
        generate(load(BloomConfig), compile=True, use_cache=False)
    with pytest.raises(UserError, match=r"OpenAIGPTModel takes no usual .*: set engine\.compile to false"):
        generate(load(OpenAIGPTConfig), compile=True)
