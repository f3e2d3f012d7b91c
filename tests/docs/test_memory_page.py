"""The numbers of docs/memory.md, from the models' own shapes."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

PAGE = (Path(__file__).parents[2] / "docs/memory.md").read_text()
GIB = 2**30

# The published configs of Qwen2.5.
CONFIGS = {
    "0.5B": Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "1.5B": Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    ),
    "7B": Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    ),
}


@pytest.fixture(scope="module")
def weights() -> list[int]:
    """N of each model, counted on models without memory."""
    counts = []
    for config in CONFIGS.values():
        with torch.device("meta"):
            counts.append(sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters()))
    return counts


def row(label: str) -> list[float]:
    """The numbers in the last three columns of the row that begins with a label."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {label}")]
    return [float(re.sub(r"[^\d.]", "", cell)) for cell in line.strip("| ").split("|")[-3:]]


def test_weights(weights: list[int]) -> None:
    assert row("weights N") == weights


@pytest.mark.parametrize(
    ("label", "bytes_per_weight"),
    [
        ("none, `strategy/ddp`", 16),
        ("`strategy/zero1`", 4 + 12 / 8),
        ("`strategy/zero2`", 2 + 14 / 8),
        ("`strategy/zero3`, P = 8, in the update", 16 / 8),
        ("`strategy/zero3`, P = 8, in rollouts", 16 / 8 + 2),
        ("`policy.lora`", 2),
    ],
)
def test_weights_and_optimizer(label: str, bytes_per_weight: float, weights: list[int]) -> None:
    assert row(label) == [round(count * bytes_per_weight / GIB, 1) for count in weights]


def test_the_cache() -> None:
    token = []
    for config in CONFIGS.values():
        head_width = config.hidden_size // config.num_attention_heads
        token.append(2 * config.num_hidden_layers * config.num_key_value_heads * head_width * 2)
    assert row("a token") == token
    assert row("`engine.max_cached_tokens: 200000`") == [round(size * 200_000 / GIB, 1) for size in token]
    assert row("1,024 responses") == [round(size * 1024 * 1280 / GIB, 1) for size in token]
    assert row("the same of 8,192") == [round(size * 1024 * (8192 + 256) / GIB, 1) for size in token]


def test_the_update() -> None:
    tokens, configs = 16_384, CONFIGS.values()
    assert row("logits of all") == [round(tokens * c.vocab_size * 4 / GIB, 1) for c in configs]
    checkpointed = [tokens * c.hidden_size * 2 * c.num_hidden_layers / GIB for c in configs]
    assert row("activations of 16,384") == [round(size, 1) for size in checkpointed]
    ratios = [(8 * c.hidden_size + 4 * c.intermediate_size) / c.hidden_size for c in configs]
    assert ratios == pytest.approx([30, 30, 30], abs=1.5)
    estimates = [size * ratio for size, ratio in zip(checkpointed, ratios, strict=True)]
    assert row("without it") == pytest.approx(estimates, rel=0.04)
