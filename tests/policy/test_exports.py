"""Exports, tried without weights before training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Qwen2Tokenizer

from laser_lightning.cli.command_line import main
from laser_lightning.errors import UserError
from laser_lightning.policy.character_tokenizer import character_tokenizer
from laser_lightning.policy.exports import check_exports, try_exports
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.model import Policy

MakePolicy = Callable[..., Policy]


@pytest.mark.parametrize(
    ("lora", "ways"), [(None, ["export"]), (LoRASettings(rank=2), ["merged export", "adapter export"])]
)
def test_what_works_is_found_to_work_and_nothing_changes(
    family: tuple[Path, float], make_policy: MakePolicy, lora: LoRASettings | None, ways: list[str]
) -> None:
    policy = make_policy(family[0], lora=lora)
    state, random = {k: v.clone() for k, v in policy.lm.state_dict().items()}, torch.get_rng_state()
    trials = try_exports(policy, character_tokenizer())
    assert [trial.way for trial in trials] == ways
    assert all(trial.problem is None for trial in trials)
    assert torch.equal(torch.get_rng_state(), random)
    assert state.keys() == policy.lm.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in policy.lm.state_dict().items())
    assert all(p.device.type == "cpu" for p in policy.lm.parameters())


def surplus(policy: Policy) -> None:
    policy.lm.model.surplus = nn.Parameter(torch.zeros(1))


def lack(policy: Policy) -> None:
    del policy.lm.model.norm.weight


def reshape(policy: Policy) -> None:
    policy.lm.model.norm.weight = nn.Parameter(torch.zeros(7))


def contradict(policy: Policy) -> None:
    policy.lm.generation_config.temperature = 0.5  # beside do_sample: false


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (surplus, r"it would have, unknown to the model, 1 tensors, such as model\.surplus"),
        (lack, r"it lacks 1 tensors, such as model\.norm\.weight"),
        (reshape, r"it would have in another shape 1 tensors, such as model\.norm\.weight"),
        (contradict, r"[\s\S]*temperature[\s\S]*"),
    ],
)
@pytest.mark.parametrize("lora", [None, LoRASettings(rank=2)])
def test_what_does_not_work_is_told(
    make_policy: MakePolicy, spoil: Callable[[Policy], None], what: str, lora: LoRASettings | None
) -> None:
    policy = make_policy(lora=lora)
    spoil(policy)
    way = "export" if lora is None else "merged export"
    with pytest.raises(UserError, match=rf"The {way} of Qwen2ForCausalLM does not work \({what}\): take another model"):
        check_exports(policy, character_tokenizer())


def test_an_adapter_that_peft_would_not_find_again_is_refused_where_it_is_asked_for(
    make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = make_policy(lora=LoRASettings(rank=2, target_modules=["q_proj"]))
    policy.lm.peft_config["default"].target_modules = ["model.layers.0.self_attn.q_proj"]
    sentence = (
        r"The adapter export of Qwen2ForCausalLM does not work \(peft does not find all of its tensors again, such as "
        r"base_model\.model\.model\.layers\.1\.self_attn\.q_proj\.lora_A\.weight\): export the merged model"
    )
    with pytest.warns(UserWarning, match=sentence):
        check_exports(policy, character_tokenizer())
    with pytest.raises(UserError, match=sentence):
        check_exports(policy, character_tokenizer(), adapter=True)


def test_a_run_ends_before_its_first_step(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("vocabulary")

    monkeypatch.chdir(tiny_run)
    arguments = ["--config", "run.yaml", "--run_dir", str(tmp_path / "run")]
    monkeypatch.setattr(Qwen2Tokenizer, "save_pretrained", fail)
    assert main(["fit", *arguments]) == 2
    assert "The export of Qwen2ForCausalLM does not work (KeyError: 'vocabulary')" in capsys.readouterr().err
    assert not list((tmp_path / "run").rglob("*.ckpt"))
