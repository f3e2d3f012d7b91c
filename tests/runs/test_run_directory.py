"""Starts in a directory: resumed, refused or kept apart, through the command line."""

import csv
from pathlib import Path

import pytest
import torch
import yaml

from laser_lightning.cli import config_files
from laser_lightning.cli.command_line import main
from laser_lightning.runs.run_directory import holds_training

STAND_INS = Path(__file__).parents[1] / "stand_ins"
FIT = ["fit", "--config", "base", "--run_dir", "run"]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory from which the stand-ins can be imported; their config is the only one with a name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(STAND_INS)
    monkeypatch.setattr(config_files, "packaged_root", lambda: STAND_INS)


def error_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    assert main(list(args)) == 2
    return capsys.readouterr().err.splitlines()[-1].removeprefix("laser-lightning: error: ")


def steps(path: str = "run/metrics.csv") -> list[str]:
    return [row["step"] for row in csv.DictReader(Path(path).read_text().splitlines()) if row.get("loss")]


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


def test_a_second_run_in_a_directory_is_refused_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(FIT) == 0
    before = files()
    assert error_of(capsys, *FIT) == (
        "run_dir: there is a run in run already (run/metrics.csv): give --ckpt_path last to resume it, "
        "--ckpt_path auto to resume it or, if it has no checkpoint yet, to begin again, or another --run_dir"
    )
    assert main([*FIT[:-1], "other"]) == 0
    theirs = error_of(capsys, *FIT, "--ckpt_path", "other/checkpoints/last.ckpt")
    assert theirs.startswith(
        "run_dir: there is a run in run already (run/metrics.csv), and other/checkpoints/last.ckpt"
    )
    assert files() == before


def test_checkpoints_alone_are_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--trainer.logger=false", "--trainer.default_root_dir=run"]
    assert main([*FIT, *options]) == 0
    assert "(run/checkpoints/" in error_of(capsys, *FIT, *options)


def test_a_start_that_failed_before_it_began_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    failing = overlay("trainer: {callbacks: {class_path: failing.Failing}}")
    Path("failing.py").write_text(
        "import lightning\n"
        "from laser_lightning.errors import UserError\n"
        "class Failing(lightning.Callback):\n"
        "    def on_fit_start(self, trainer, pl_module):\n"
        "        raise UserError('no such model')\n"
    )
    assert error_of(capsys, *FIT, "--config", failing) == "no such model"
    assert Path("run/config.yaml").exists()
    assert main(FIT) == 0


def overlay(text: str) -> str:
    Path("overlay.yaml").write_text(text)
    return "overlay.yaml"


def test_last_needs_a_checkpoint_and_auto_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, *FIT, "--ckpt_path", "last") == (
        "ckpt_path: there is no complete checkpoint in run/checkpoints; --run_dir names the run whose last one it is, "
        "and --ckpt_path auto begins a run where there is none"
    )
    assert not Path("run").exists()
    assert main([*FIT, "--ckpt_path", "auto"]) == 0
    assert steps() == ["0"]
    assert main([*FIT, "--ckpt_path", "auto", "--trainer.max_steps", "2"]) == 0
    assert steps() == ["0", "1"]
    assert main([*FIT, "--ckpt_path", "last", "--trainer.max_steps", "3"]) == 0
    assert steps() == ["0", "1", "2"]
    assert main([*FIT, "--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.max_steps", "4"]) == 0
    assert steps() == ["0", "1", "2", "3"]


def test_auto_begins_again_where_a_run_has_no_checkpoint() -> None:
    assert main([*FIT, "--checkpoint=null"]) == 0
    first = Path("run/metrics.csv").read_text()
    assert main([*FIT, "--ckpt_path=auto"]) == 0
    assert Path("run/metrics.1.csv").read_text() == first
    assert steps() == ["0"]


@pytest.mark.parametrize("path", ["last", "auto"])
def test_the_newest_checkpoint_is_that_of_a_directory(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, *FIT[:-2], "--ckpt_path", path) == (
        f"ckpt_path (command line): {path} looks into the directory of a run: give it with --run_dir"
    )
    assert not Path("runs").exists()


def test_auto_is_for_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, "test", *FIT[1:], "--ckpt_path", "auto") == (
        "ckpt_path (command line): auto is for fit; give `last`, or the path of a checkpoint"
    )


def test_an_evaluation_leaves_the_files_of_the_training_run() -> None:
    assert main(FIT) == 0
    before = files()
    for number in (0, 1):
        assert main(["test", *FIT[1:], "--ckpt_path", "last"]) == 0
        assert Path("run/metrics.test.1.csv").exists() == bool(number)
    assert {name: content for name, content in files().items() if name in before} == before
    assert holds_training(Path("run"))
    assert Path("run/config.test.yaml").is_file()
    assert next(csv.DictReader(Path("run/metrics.test.csv").open()))["value"] == "1.0"  # noqa: SIM115
    # In a directory of its own its files have the usual names, also when it is repeated.
    for number in (0, 1):
        assert main(["validate", *FIT[1:-1], "own", "--ckpt_path", "run/checkpoints/last.ckpt"]) == 0
        assert Path("own/metrics.1.csv").exists() == bool(number)
    assert {path.name for path in Path("own").glob("config*")} == {"config.yaml"}
    assert not holds_training(Path("own"))


def test_a_checkpoint_from_before_an_argument_was_there_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(FIT) == 0
    path = Path("run/checkpoints/last.ckpt").resolve()
    saved = torch.load(path, weights_only=True)
    settings = yaml.safe_load(saved["laser_settings"])
    model, data = (settings[name]["init_args"] for name in ("model", "data"))
    del model["alpha"], model["settings"]["steps"], data["train"]["init_args"], data["batch"]
    torch.save(saved | {"laser_settings": yaml.safe_dump(settings)}, path)
    resumed = [*FIT, "--ckpt_path", "last", "--trainer.max_steps", "2"]
    assert "model.alpha: 0.5 -> 0.75. Set" in error_of(capsys, *resumed, "--model.alpha", "0.75")
    model["gone"] = 3  # an argument of then that is none any more
    torch.save(saved | {"laser_settings": yaml.safe_dump(settings)}, path)
    assert "results: model.gone: 3 -> nothing. Set" in error_of(capsys, *resumed)
    assert main([*resumed, "--allow_changes", "model.gone"]) == 0


def test_settings_of_the_resumed_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(FIT) == 0
    before = files()
    resumed = [*FIT, "--ckpt_path", "last", "--trainer.max_steps", "2"]
    assert error_of(capsys, *resumed, "--model.alpha", "0.75", "--data.batch", "1") == (
        "ckpt_path: these settings are not those of the run that is resumed, and change its results: "
        "model.alpha: 0.5 -> 0.75; data.batch: 2 -> 1. Set them as they were, or allow it with "
        "--allow_changes model.alpha data.batch"
    )
    assert files() == before
    assert main([*resumed, "--model.alpha", "0.75", "--allow_changes", "model.alpha"]) == 0
    # The new checkpoint is of the new settings: the same command goes on, and the old settings are a change.
    assert main([*resumed, "--model.alpha", "0.75", "--allow_changes", "model.alpha", "--trainer.max_steps=3"]) == 0
    assert "model.alpha: 0.75 -> 0.5" in error_of(capsys, *resumed)
    settings = torch.load("run/checkpoints/last.ckpt", weights_only=True)["laser_settings"]
    assert yaml.safe_load(settings)["model"]["init_args"]["alpha"] == 0.75
    # Into another directory it is the same.
    elsewhere = [*FIT[:-1], "new", "--ckpt_path", "run/checkpoints/last.ckpt"]
    assert "model.alpha: 0.75 -> 0.5" in error_of(capsys, *elsewhere)
