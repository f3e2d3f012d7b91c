"""What is refused in a sentence when a policy is loaded, and what is mended."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, PretrainedConfig

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy, PolicySettings, load_tokenizer

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
