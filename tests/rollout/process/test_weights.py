"""Weights through the shared file: of plain models, with adapters, and of mixtures whose checkpoints differ."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import MixtralConfig, Qwen2Config

from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import stream_weights
from laser_lightning.rollout.process import weights
from laser_lightning.rollout.process.weights import WeightCopy, open_shared_file, read_weights, write_weights


@pytest.mark.parametrize(
    ("config_class", "fields", "lora"),
    [
        (Qwen2Config, {"tie_word_embeddings": True}, None),
        (Qwen2Config, {"tie_word_embeddings": False}, LoRASettings(rank=3)),
        (MixtralConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}, None),
    ],
    ids=["tied", "lora", "mixture"],
)
def test_a_copy_computes_what_the_model_computes(
    config_class: type,
    fields: dict[str, int],
    lora: LoRASettings | None,
    tmp_path: Path,
    save_model: Callable[..., Path],
    tiny_config: Callable,
    make_policy: Callable[..., Policy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "AT_ONCE_BYTES", 20_000)
    config = tiny_config(config_class, **fields)
    ours = make_policy(save_model(tmp_path / "ours", config), lora=lora)
    theirs = make_policy(save_model(tmp_path / "theirs", config, seed=1))
    for name, parameter in ours.lm.named_parameters():
        if ".lora_B" in name:  # zero at the start
            nn.init.normal_(parameter, std=0.1)
    copy, parts = WeightCopy(theirs.lm), 0
    with open_shared_file() as file:
        for size, is_last in write_weights(stream_weights(ours.lm), file.fileno()):
            copy.take(read_weights(file.fileno(), size), is_last)
            parts += 1
    assert parts > 3
    ids = torch.randint(2, 90, (2, 9))
    expected, found = (policy.lm(input_ids=ids).logits for policy in (ours, theirs))
    # With adapters the product of merged weights is another sum of the same numbers.
    torch.testing.assert_close(found, expected, rtol=1e-4 if lora else 0, atol=1e-4 if lora else 0)
