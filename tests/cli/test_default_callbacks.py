"""A config of a model and data alone: what a run has without being asked, and how it is changed and switched off."""

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from laser_lightning.callbacks import EvaluationReport, RunCheckpoint, SelfRewardFigures
from laser_lightning.cli.command_line import main
from laser_lightning.cli.config_files import Origin
from laser_lightning.cli.default_callbacks import CALLBACK_SLOTS, left_out, repeated
from laser_lightning.cli.error_sentences import COMMAND_LINE

CONFIG = r"""
torch_threads: 1
model:
  policy: {path: embedded}
  self_reward: {token: <|reward|>, beta: 0.25}
  verifier: {class_path: laser_lightning.verifiers.ExactVerifier, init_args: {pattern: '#(\d+)$'}}
  group_size: 4
  sampling: {max_response_tokens: 32}
  verification: {workers: 0}
  evaluation: {samples: 2}
data:
  train: {class_path: laser_lightning.data.ArithmeticSource, init_args: {split: train, size: 64}}
  val:
    sums: &sums {class_path: laser_lightning.data.ArithmeticSource, init_args: {split: val, size: 2}}
  test: {sums: *sums}
  predict: {sums: *sums}
  template: {chat: true}
  prompts_per_step: 4
trainer: {max_steps: 3, accelerator: cpu, devices: 1, enable_progress_bar: false, enable_model_summary: false}
"""
CALIBRATION = ["--calibration.prompts=4"]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)


def files(run: str) -> set[str]:
    return {str(path.relative_to(run)) for path in Path(run).rglob("*") if path.is_file()}


def test_a_run_leaves_what_the_readme_lists_and_its_evaluation_too() -> None:
    fit = ["fit", "--config", "run.yaml", "--run_dir", "run", *CALIBRATION]
    assert main([*fit, "--checkpoint.every_n_train_steps", "2", "--checkpoint.save_top_k=-1"]) == 0
    assert files("run") >= {
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "solutions/train.jsonl",
        "solutions/val.jsonl",
        "figures/training.png",
        "figures/sums_self_reward.png",
        "figures/sums_votes.png",
        "export/last/model.safetensors",
        "export/last/self_reward.json",
        "checkpoints/step=2.ckpt",
        "checkpoints/step=3.ckpt",  # the last step, whatever the interval
        "checkpoints/last.ckpt",
    }
    assert "calibration/mean" in next(csv.reader(Path("run/metrics.csv").read_text().splitlines()))
    checkpoint = ["--ckpt_path", "run/checkpoints/last.ckpt"]
    assert main(["test", "--config", "run.yaml", "--run_dir", "test", *checkpoint]) == 0
    assert files("test") >= {"evaluation/test.csv", "evaluation/test_curves.png", "solutions/test.jsonl"}
    assert main(["predict", "--config", "run.yaml", "--run_dir", "predict", *checkpoint]) == 0
    assert "predictions/sums.jsonl" in files("predict")


def test_a_dry_run_writes_nothing() -> None:
    options = ["--trainer.fast_dev_run=1", "--run_dir=run", "--export.dirname=here", *CALIBRATION]
    assert main(["fit", "--config", "run.yaml", *options]) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["run.yaml"]


def test_null_switches_all_of_it_off() -> None:
    off = [f"--{slot}=null" for slot in CALLBACK_SLOTS]
    options = ["--model.self_reward.reference=-17", "--trainer.limit_val_batches=0", "--run_dir=run", *off]
    assert main(["fit", "--config", "run.yaml", *options]) == 0
    written = {name for name in files("run") if not name.startswith("events.out")}
    assert written == {"config.yaml", "hparams.yaml", "metrics.csv"}


def printed(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "run.yaml", *options, "--print_config"])
    assert end.value.code == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return config


def test_the_printed_config_shows_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed(capsys, "--checkpoint.every_n_train_steps=10", "--figures=null")
    assert config["checkpoint"]["class_path"] == "laser_lightning.callbacks.RunCheckpoint"
    assert config["checkpoint"]["init_args"]["every_n_train_steps"] == 10
    assert config["checkpoint"]["init_args"]["filename"] == "{step}"
    assert config["figures"] is None
    classes = {slot: config[slot]["class_path"] for slot in CALLBACK_SLOTS if config[slot] is not None}
    assert classes == {slot: place.default for slot, place in CALLBACK_SLOTS.items() if slot != "figures"}


def test_a_callback_that_was_asked_for_and_does_not_suit_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config", "warm_start", "--trainer.max_steps=1", "--data.train.init_args.size=64", "--run_dir=run"]
    assert main(["fit", *options, "--figures.dpi=100"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "laser-lightning: error: SelfRewardFigures works with LaSeRModule, and the model is SupervisedModule: "
        "set `figures: null`."
    )


def origins(**values: str) -> dict[tuple[str, ...], Origin]:
    """Origins of keys on the command line, with __ for the dots."""
    return {tuple(key.split("__")): Origin(COMMAND_LINE, value) for key, value in values.items()}


LASER = "laser_lightning.LaSeRModule"
ONLY_LASER = ["calibration", "solution_log", "predictions", "figures", "report"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"model": LASER}, []),
        ({"model__class_path": LASER}, []),
        ({"model": "RISEModule"}, []),
        ({"model": "laser_lightning.SupervisedModule"}, ONLY_LASER),
        (
            {"model": "laser_lightning.SupervisedModule", "model__self_reward": "laser_lightning.LastTokenSelfReward"},
            [s for s in ONLY_LASER if s != "calibration"],
        ),
        (
            {"model": "laser_lightning.SupervisedModule", "model__self_reward": "laser_lightning.YesNoSelfReward"},
            ONLY_LASER,
        ),
        (
            {"model": "laser_lightning.SupervisedModule", "figures__dpi": "90"},
            [s for s in ONLY_LASER if s != "figures"],
        ),
        ({"model": "lightning.LightningModule"}, [slot for slot in CALLBACK_SLOTS if slot != "checkpoint"]),
        ({"model": "no_such.Model"}, []),  # the parser says so
        ({"model": LASER, "model__self_reward__init_args__reference": "-23.1"}, ["calibration"]),
        ({"model": LASER, "model__self_reward__reference": "exact"}, ["calibration"]),
        ({"model": LASER, "model__init_args__self_reward__init_args__reference": "calibrate"}, []),
        ({"model": LASER, "model__self_reward": "laser_lightning.YesNoSelfReward"}, ["calibration"]),
        ({"model": LASER, "trainer__enable_checkpointing": "false"}, ["checkpoint"]),
        ({"model": LASER, "trainer__enable_checkpointing": "false", "checkpoint": "X"}, []),
    ],
)
def test_which_defaults_are_left_out(given: dict[str, str], expected: list[str]) -> None:
    assert left_out(origins(**given)) == expected


def test_a_users_own_callback_takes_the_place_of_a_default() -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    slots = {"checkpoint": RunCheckpoint(), "figures": SelfRewardFigures(), "report": EvaluationReport()}
    assert repeated(slots, [None, SelfRewardFigures(dpi=80)]) == ["figures"]
    assert repeated(slots, [ModelCheckpoint(dirpath="mine")]) == ["checkpoint"]
    assert repeated(slots, []) == []
