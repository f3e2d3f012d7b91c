"""``laser-lightning check``: a table of what works with a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma3TextConfig, JetMoeConfig, PretrainedConfig, Qwen3MoeConfig

from laser_lightning.cli.check import read_asked
from laser_lightning.cli.command_line import main
from laser_lightning.errors import UserError
from laser_lightning.rollout import TransformersEngine

SaveModel = Callable[..., Path]
TinyConfig = Callable[..., PretrainedConfig]
ALWAYS = ["load", "same pass twice", "causality", "head", "training mode", "decode", "refill", "optimizer step"]
OTHERS = [
    "pack",
    "shared prompts",
    "compile (engine)",
    "gradient checkpointing",
    "vLLM",
    "LoRA",
    "merged export",
    "adapter export",
]


@pytest.fixture(autouse=True)
def nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes half a minute."""
    monkeypatch.setattr("laser_lightning.rollout.transformers.compiled.CAN_COMPILE", False)


def rows(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and the rows by name."""
    status = main(["check", *args, "--json", "--trainer.accelerator", "cpu", "--trainer.devices=1"])
    return status, {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_what_is_asked_for_works(policy_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = rows(capsys, "--model.policy.path", str(policy_dir))
    assert status == 0
    assert {name for name, row in found.items() if row["asked"]} == {*ALWAYS, "pad", "export"}
    assert {name for name, row in found.items() if not row["asked"]} == set(OTHERS)
    refused = {name for name, row in found.items() if row["outcome"] != "works"}
    assert refused == {"compile (engine)", "vLLM"}
    assert "engine.compile needs torch" in found["compile (engine)"]["sentence"]
    assert found["vLLM"]["sentence"].startswith("vLLM is not installed here: pip install")
    assert found["optimizer step"]["sentence"] == "SingleDeviceStrategy, precision 32-true, 1 process"


def test_experts_and_lora(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 16}
    path = save_model(tmp_path, tiny_config(Qwen3MoeConfig, **sizes))
    (tmp_path / "run.yaml").write_text(
        f"model: {{policy: {{path: {path}, packing: always}}}}\ntrainer: {{precision: bf16-mixed}}\n"
        "data: {train: {class_path: laser_lightning.data.ArithmeticSource}}\n"
    )
    status, found = rows(
        capsys, "--config", str(tmp_path / "run.yaml"), "--model.policy.lora.target_modules", "[q_proj, v_proj]"
    )
    assert {"LoRA", "merged export", "adapter export", "pack"} <= {name for name, row in found.items() if row["asked"]}
    assert not found["export"]["asked"]
    assert status == 0, found
    assert "bf16-mixed" in found["optimizer step"]["sentence"]


def test_what_is_wrong_is_said_and_asked_for_sets_the_status(
    tmp_path: Path, save_model: SaveModel, tiny_config: TinyConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_model(tmp_path, tiny_config(Gemma3TextConfig, head_dim=16, use_bidirectional_attention=True))
    status = main(["check", "--model.policy.path", str(path), "--trainer.accelerator=cpu", "--trainer.devices=1"])
    table = capsys.readouterr().out
    assert status == 1
    (row,) = [line for line in table.splitlines() if line.startswith("* causality ")]
    assert "refused  In Gemma3ForCausalLM a place of a sequence sees the tokens behind" in row


def test_gradient_checkpointing_where_there_is_none(
    tmp_path: Path, save_model: SaveModel, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "eos_token_id": 1}
    path = save_model(tmp_path / "model", JetMoeConfig(**sizes, num_key_value_heads=2, kv_channels=16))
    status, found = rows(capsys, "--model.policy.path", str(path), "--model.policy.gradient_checkpointing", "true")
    assert status == 1
    assert found["gradient checkpointing"]["outcome"] == found["optimizer step"]["outcome"] == "refused"
    assert "transformers has none for JetMoeForCausalLM" in found["gradient checkpointing"]["sentence"]


def test_a_model_that_cannot_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = rows(capsys, "--model.policy.path", str(tmp_path / "nowhere"))
    assert status == 1
    assert list(found) == ["load", "optimizer step"]
    assert "there is no such directory" in found["load"]["sentence"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--model.policy.lora.rnk", "4"], "rank"),
        (["--model.polcy.path", "x"], "policy"),
        (["--trainer.precison", "x"], "precision"),
        (["--model.policy.packing", "sometimes"], "sometimes"),
        ([], "path"),
    ],
)
def test_a_mistake_in_the_config(option: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model.policy.path", "embedded"] if option else []
    assert main(["check", *given, *option]) == 2
    error = capsys.readouterr().err
    assert error.startswith("laser-lightning: error: ")
    assert said in error
    assert len(error.splitlines()) == 1


def test_options_of_fit_may_stay(tmp_path: Path) -> None:
    given = [
        "--data.prompts_per_step",
        "8",
        "--trainer.max_steps=3",
        "--run_dir",
        str(tmp_path),
        "--model.group_size=4",
    ]
    asked = read_asked(
        [*given, "--model.init_args.policy.path", "x", "--trainer.devices", "2", "--model.engine.compile=true"]
    )
    assert (asked.policy.path, asked.trainer["devices"]) == ("x", 2)
    assert isinstance(asked.engine, TransformersEngine)
    assert asked.engine.compile
    assert asked.trainer["strategy"] == "auto"
    assert not any(tmp_path.iterdir())
    with pytest.raises(UserError, match="check has no --print_config"):
        read_asked(["--print_config", "--model.policy.path", "x"])


def test_help_is_there_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--help"]) == 0
    assert "usage: laser-lightning check" in capsys.readouterr().out
