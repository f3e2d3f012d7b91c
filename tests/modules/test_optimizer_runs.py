"""Runs with an optimizer and a schedule by class path, through the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning import MuonWithAdamW, SupervisedModule
from laser_lightning.arguments import plain_form
from laser_lightning.cli.command_line import main

MODEL = "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1}"
OPTIONS = [
    "--config=warm_start",
    "--config=optimizer/muon",
    "--model.optimizer.algorithm.momentum=0.9",
    "--model.optimizer.schedule=CosineAnnealingLR",
    "--model.optimizer.schedule.T_max=3",
    "--model.optimizer.warmup_steps=2",
    f"--model.policy.config_overrides={MODEL}",
    "--model.policy.random_init=true",
    "--data.train.init_args.size=16",
    "--data.prompts_per_step=8",
    "--data.val=null",
    "--checkpoint.every_n_train_steps=1",
    "--checkpoint.save_top_k=-1",
    "--export=null",
    "--figures=null",
    "--trainer.enable_progress_bar=false",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    assert main(["fit", *OPTIONS, "--trainer.max_steps=4", f"--run_dir={directory}"]) == 0
    return directory


def saved(run: Path, step: int) -> dict[str, Any]:
    return dict(torch.load(run / f"checkpoints/step={step}.ckpt", weights_only=True))


def test_the_rate_rises_and_falls_for_both_parts(whole: Path) -> None:
    # The rate of warm_start is 2e-3: 1/3 and 2/3 of it in the warm-up, then (1 + cos(pi * step / 3)) / 2: 1, 3/4.
    for step, share in ((1, 2 / 3), (2, 1.0), (3, 0.75)):
        groups = saved(whole, step)["optimizer_states"][0]["param_groups"]
        assert [group["kind"] for group in groups] == ["matrix", "embedding", "vector"]
        assert [group["lr"] for group in groups] == pytest.approx([2e-3 * share] * 3)
        assert groups[0]["momentum"] == 0.9
        assert [group["weight_decay"] for group in groups] == [0.01, 0.01, 0.0]


def test_a_resumed_run_is_bit_for_bit_the_other(whole: Path, tmp_path: Path) -> None:
    options = ["--trainer.max_steps=4", f"--run_dir={tmp_path}", f"--ckpt_path={whole}/checkpoints/step=2.ckpt"]
    assert main(["fit", *OPTIONS, *options]) == 0
    resumed, expected = saved(tmp_path, 4), saved(whole, 4)
    for name, value in expected["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
        assert not torch.equal(saved(whole, 2)["state_dict"][name], value), name
    ours, theirs = resumed["optimizer_states"][0], expected["optimizer_states"][0]
    assert ours["param_groups"] == theirs["param_groups"]
    assert {name for state in theirs["state"].values() for name in state} == {
        "momentum_buffer",
        "step",
        "exp_avg",
        "exp_avg_sq",
    }
    for number, state in theirs["state"].items():
        assert all(torch.equal(ours["state"][number][name], value) for name, value in state.items())
    assert resumed["lr_schedulers"] == expected["lr_schedulers"]


def test_a_checkpoint_makes_its_module_again(whole: Path) -> None:
    settings = SupervisedModule.load_from_checkpoint(whole / "checkpoints/step=4.ckpt").optimizer_settings
    form = plain_form(settings)["init_args"]
    muon = f"{MuonWithAdamW.__module__}.MuonWithAdamW"
    assert (form["algorithm"]["class_path"], form["algorithm"]["init_args"]["momentum"]) == (muon, 0.9)
    assert form["schedule"]["init_args"]["T_max"] == 3


def test_another_algorithm_is_another_run(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [option for option in OPTIONS if "algorithm" not in option and "muon" not in option]
    resume = [f"--run_dir={tmp_path}", f"--ckpt_path={whole}/checkpoints/step=2.ckpt"]
    assert main(["fit", *options, "--trainer.max_steps=5", *resume]) == 2
    error = capsys.readouterr().err
    assert "model.optimizer.algorithm: {class_path: " in error
    assert "-> adamw. Set them as they were" in error  # the number of steps may change: this schedule has its own


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--model.optimizer.algorithm.lr=0.1"],
            "algorithm.lr (command line): no key here: laser_lightning.",
        ),
        (["--model.optimizer.algorithm.momentm=1"], "did you mean momentum?"),
        (["--model.optimizer.algorithm.momentum=much"], "algorithm.momentum (command line): expected float, got much"),
        (["--model.optimizer.algorithm=adamv"], "expected one of 'adamw', 'sgd' or a class_path such as"),
    ],
    ids=["given", "unknown", "wrong", "neither"],
)
def test_what_is_wrong_is_told_in_a_sentence(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *OPTIONS, *options]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Namespace" not in error
