"""What of Lightning cannot work here ends in a sentence with what to do instead, from Python and the command line."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
from lightning.pytorch import callbacks
from lightning.pytorch.plugins import DoublePrecision

from laser_lightning import PromptDataModule, SupervisedModule
from laser_lightning.cli.command_line import main
from laser_lightning.data import ArithmeticSource
from laser_lightning.errors import UserError
from laser_lightning.modules.trainer_checks import CALLBACKS_INSTEAD
from laser_lightning.policy.model import PolicySettings

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}


def fit(tmp_path: Path, ckpt_path: Path | None = None, **options: Any) -> lightning.Trainer:
    module = SupervisedModule(PolicySettings("embedded", random_init=True, config_overrides=SIZES))
    settings = {**QUIET, "accelerator": "cpu", "devices": 1, "max_steps": 1, "default_root_dir": tmp_path, **options}
    trainer = lightning.Trainer(**settings)
    data = PromptDataModule(train=ArithmeticSource("train", size=16), prompts_per_step=4)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gradient_clip_val": 1.0}, r"trainer\.gradient_clip_val: .*give model\.optimizer\.max_grad_norm"),
        ({"gradient_clip_algorithm": "value"}, r"trainer\.gradient_clip_algorithm: .*model\.optimizer\.max_grad_norm"),
        ({"accumulate_grad_batches": 2}, r"trainer\.accumulate_grad_batches: .*data\.prompts_per_step"),
        ({"precision": "64-true"}, r"trainer\.precision is 64-true: .*give 32-true"),
        ({"plugins": DoublePrecision()}, r"trainer\.precision is 64-true"),
    ],
)
def test_settings_name_ours(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        fit(tmp_path, **options)


REFUSED: dict[type[callbacks.Callback], tuple[dict[str, Any], str]] = {
    callbacks.GradientAccumulationScheduler: ({"scheduling": {0: 2}}, "model.update.micro_batch_tokens"),
    callbacks.BatchSizeFinder: ({}, "data.prompts_per_step"),
    callbacks.LearningRateFinder: ({}, "model.optimizer.learning_rate"),
    callbacks.StochasticWeightAveraging: ({"swa_lrs": 0.1}, "EMAWeightAveraging"),
    callbacks.BaseFinetuning: ({}, "model.policy.lora"),
    callbacks.BackboneFinetuning: ({}, "model.policy.lora"),
    callbacks.ModelPruning: ({"pruning_fn": "l1_unstructured"}, "prune the exported model"),
    callbacks.SpikeDetection: ({}, "model.max_skipped_steps"),
}


def test_all_refused_callbacks_are_tried() -> None:
    assert REFUSED.keys() - {callbacks.BackboneFinetuning} == CALLBACKS_INSTEAD.keys()


@pytest.mark.parametrize("kind", REFUSED)
def test_callbacks_say_what_to_do_instead(tmp_path: Path, kind: type[callbacks.Callback]) -> None:
    arguments, instead = REFUSED[kind]
    with pytest.raises(UserError, match=rf"trainer\.callbacks: {kind.__name__} does not work here: .*{instead}"):
        fit(tmp_path, callbacks=[kind(**arguments)])


@pytest.mark.parametrize(
    "callback",
    [callbacks.Timer(), callbacks.LearningRateMonitor(), callbacks.DeviceStatsMonitor(), callbacks.ModelSummary()],
)
def test_others_run(tmp_path: Path, callback: callbacks.Callback) -> None:
    logs = {"logger": lightning.pytorch.loggers.CSVLogger(tmp_path)}
    assert fit(tmp_path, callbacks=[callback], log_every_n_steps=1, **logs).global_step == 1


def test_nothing_to_train_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"trainer\.limit_train_batches is 0: nothing is trained"):
        assert fit(tmp_path, limit_train_batches=0).global_step == 0


def test_a_checkpoint_of_weights_alone_resumes_no_run(tmp_path: Path) -> None:
    fit(tmp_path).save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    with pytest.raises(UserError, match=r"ckpt_path: the checkpoint holds weights alone \(save_weights_only\)"):
        fit(tmp_path, ckpt_path=tmp_path / "weights.ckpt", max_steps=2)


# ------------------------------------------------------------------ the command line


def test_on_the_command_line(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "length_verifier", raising=False)

    def last_words(*arguments: str) -> str:
        assert main(["fit", "--config", "run.yaml", "--run_dir", "run", *arguments]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    scheduler = {
        "class_path": "lightning.pytorch.callbacks.GradientAccumulationScheduler",
        "init_args": {"scheduling": {0: 2}},
    }
    assert last_words("--trainer.callbacks", json.dumps(scheduler)).endswith(
        "GradientAccumulationScheduler does not work here: the module takes its own optimizer steps; give "
        "data.prompts_per_step; model.update.micro_batch_tokens bounds the memory."
    )
    assert "trainer.precision is 64-true: log-probs and" in last_words("--trainer.precision", "64-true")


def test_a_timer_in_a_config_is_printed_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timer = json.dumps({"class_path": "lightning.pytorch.callbacks.Timer", "init_args": {"duration": "00:01:00:00"}})
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--config", "quickstart", "--trainer.callbacks", timer, "--print_config"])
    assert "interval: step" in capsys.readouterr().out  # an enum of Lightning's, by default
