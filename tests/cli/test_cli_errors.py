from pathlib import Path

import pytest

from laser_lightning.cli import config_files
from laser_lightning.cli.command_line import main
from laser_lightning.cli.error_sentences import sentence

STAND_INS = Path(__file__).parents[1] / "stand_ins"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory from which the stand-ins can be imported; their config is the only one with a name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(STAND_INS)
    monkeypatch.setattr(config_files, "packaged_root", lambda: STAND_INS)


def overlay(text: str, name: str = "overlay.yaml") -> str:
    Path(name).write_text(text)
    return name


def error_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that an error of the user's leaves on stderr."""
    assert main(list(args)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "Seed set to 0" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("laser-lightning: error: ")
    return lines[0].removeprefix("laser-lightning: error: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "\ntrainer: {max_stepss: 3}",
            "trainer.max_stepss (overlay.yaml, line 2): unknown key; did you mean trainer.max_steps?",
        ),
        ("tainer: {max_steps: 3}", "tainer (overlay.yaml, line 1): unknown key; did you mean trainer?"),
        ("trainer: 3", "trainer (overlay.yaml, line 1): expected a mapping of keys to values, got 3"),
        ("trainer: {max_steps: x}", "trainer.max_steps (overlay.yaml, line 1): expected int, got x"),
        ("trainer: {max_steps: null}", "trainer.max_steps (overlay.yaml, line 1): expected int, got null"),
        ("seed_everything: x", "seed_everything (overlay.yaml, line 1): expected bool or int, got x"),
        (
            "model:\n  score:\n    bta: 3",
            "model.init_args.score.init_args.bta (overlay.yaml, line 3): "
            "unknown key of stand_ins.Score; did you mean beta?",
        ),
        (
            "model: {settings: {rat: 3}}",
            "model.init_args.settings.rat (overlay.yaml, line 1): "
            "unknown key of stand_ins.Net; did you mean settings.rate?",
        ),
        (
            "model: {settings: 3}",
            "model.init_args.settings (overlay.yaml, line 1): expected a mapping of keys to values",
        ),
        ("model: {alpha: x}", "model.init_args.alpha (overlay.yaml, line 1): expected float, got x"),
        ("model: {alpha: null}", "model.init_args.alpha (overlay.yaml, line 1): expected float, got null"),
        ("model: {names: x}", "model.init_args.names (overlay.yaml, line 1): expected list, got x"),
        (
            "model: {score: {class_path: stand_ins.Recorder}}",
            "model.init_args.score.class_path (overlay.yaml, line 1): "
            "expected the class_path of a Score, got stand_ins.Recorder",
        ),
        (
            "model: {score: {class_path: stand_ins.Scores}}",
            "model.init_args.score.class_path (overlay.yaml, line 1): cannot import stand_ins.Scores: "
            "module 'stand_ins' has no attribute 'Scores'; did you mean Score?",
        ),
        (
            "data: {val: {easy: {sizes: 3}}}",
            "data.init_args.val.easy.init_args.sizes (overlay.yaml, line 1): "
            "unknown key of stand_ins.Numbers; did you mean size?",
        ),
        (
            "data: {val: {easy: {size: x}}}",
            "data.init_args.val.easy.init_args.size (overlay.yaml, line 1): expected int, got x",
        ),
        (
            "data: {val: {new: 3}}",
            "data.init_args.val.new (overlay.yaml, line 1): expected the class_path of a Source, got 3",
        ),
        (
            "trainer: {callbacks: [{class_path: stand_ins.Recorder, init_args: {nam: x}}]}",
            "trainer.callbacks.0.init_args.nam (overlay.yaml, line 1): "
            "unknown key of stand_ins.Recorder; did you mean name?",
        ),
        (
            "export: {every: 3}",
            "export.init_args.every (overlay.yaml, line 1): "
            "unknown key of laser_lightning.callbacks.HuggingFaceExport; "
            "known are adapter, at_end, dirname, mode, monitor",
        ),
        (
            "export: {class_path: no_such_file.Export}",
            "export.class_path (overlay.yaml, line 1): "
            "cannot import no_such_file.Export: No module named 'no_such_file'",
        ),
        (
            "export: {class_path: broken.Export}",
            "export.class_path (overlay.yaml, line 1): cannot import broken.Export: this file is broken",
        ),
        ("figurs: null", "figurs (overlay.yaml, line 1): unknown key; did you mean figures?"),
        ("ckpt_path: no.ckpt", "ckpt_path (overlay.yaml, line 1): there is no checkpoint at 'no.ckpt'"),
    ],
)
def test_a_mistake_in_a_config_names_key_file_and_line(
    capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert error_of(capsys, "fit", "--config", "base", "--config", overlay(text)) == message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--trainer.max_stepss=3", "trainer.max_stepss (command line): unknown key; did you mean trainer.max_steps?"),
        ("--trainer.max_step=3", "trainer.max_step (command line): unknown key; did you mean trainer.max_steps?"),
        # An abbreviation is a misspelt key, on every level.
        (
            "--model.settings.rat=3",
            "model.settings.rat (command line): unknown key of stand_ins.Net; did you mean settings.rate?",
        ),
        (
            "--model.score=Scor",
            "model.score (command line): expected a class_path such as my_file.MyClass, got Scor",
        ),
        ("--modl.alpha=3", "modl.alpha (command line): unknown key; did you mean model?"),
        ("--model.score.bta=3", "model.score.bta (command line): unknown key of stand_ins.Score; did you mean beta?"),
        ("--model.scor.beta=3", "model.scor.beta (command line): unknown key of stand_ins.Net; did you mean score?"),
        (
            "--data.val.easy.sizes=3",
            "data.val.easy.sizes (command line): unknown key of stand_ins.Numbers; did you mean size?",
        ),
        ("--data.val.easy.size=x", "data.val.easy.size (command line): expected int, got x"),
        ("--data.val.new=3", "data.val.new (command line): expected a class_path such as my_file.MyClass, got 3"),
        (
            "--checkpoint.every=3",
            "checkpoint.every (command line): unknown key of lightning.pytorch.callbacks.ModelCheckpoint; ",
        ),
        (
            "--torch_threads=0",
            "torch_threads (command line): Not of type PositiveInt: does not conform to restriction v>0 (given: 0)",
        ),
        (
            "--model=no_such_file.Model",
            "model (command line): cannot import no_such_file.Model: No module named 'no_such_file'",
        ),
        ("--ckpt_path=no.ckpt", "ckpt_path (command line): there is no checkpoint at 'no.ckpt'"),
        ("--ckpt_path=best", "ckpt_path (command line): no best checkpoint is known to a new process; give its path"),
        ("--trainer.max_steps", "argument --trainer.max_steps: expected one argument"),
        (
            "--config=bse",
            "config 'bse': there is no file at this path and no packaged config of this name "
            "(did you mean base?); packaged are: base",
        ),
        ("--config", "argument -c/--config: expected one argument"),
    ],
)
def test_a_mistake_on_the_command_line_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    assert error_of(capsys, "fit", "--config", "base", option).startswith(message)


@pytest.mark.parametrize(
    ("args", "end"),
    [
        (["fitt", "--config", "base"], "'fitt'; did you mean fit?"),
        (["--config", "base"], "'nothing'"),
        ([], "'nothing'"),
    ],
)
def test_the_command_is_asked_for(capsys: pytest.CaptureFixture[str], args: list[str], end: str) -> None:
    message = error_of(capsys, *args)
    assert message.startswith("the first word is fit, validate, test, predict, check, export")
    assert message.endswith(f", not {end}")


def test_a_required_key_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    config = overlay("model: {class_path: stand_ins.Net, init_args: {score: {class_path: stand_ins.Score}}}")
    data = ["--data", "stand_ins.Data", "--data.train", "stand_ins.Numbers"]
    assert error_of(capsys, "fit", "--config", config, *data) == (
        "model.score.token (overlay.yaml, line 1): required; set it in a config or on the command line"
    )


def test_a_required_key_of_a_class_in_a_mapping_is_named() -> None:
    # What the parser says of data.val.sums, a FileSource without its path.
    message = """Parser key "data.val":
  Does not validate against any of the Union subtypes
  Subtypes: [dict[str, Source | None], <class 'NoneType'>]
  Errors:
    - Does not validate against any of the Union subtypes
      Subtypes: [<class 'Source'>, <class 'NoneType'>]
      Errors:
        - Problem with given class_path 'laser_lightning.data.FileSource':
            the following arguments are required: path
        - Expected a <class 'NoneType'>
      Given value type: <class 'jsonargparse._namespace.Namespace'>
      Given value: Namespace(class_path='laser_lightning.data.FileSource', init_args=Namespace(path=Unset))
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {'sums': Namespace(class_path='laser_lightning.data.FileSource')}"""
    assert sentence(message, {}, []) == "data.val.path: required; set it in a config or on the command line"


def test_what_a_constructor_refuses_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fit", "--config", "base", "--model.score.beta"]
    assert error_of(capsys, *command, "-1") == "beta is -1.0: give a positive number."
    assert error_of(capsys, *command, "0").startswith("zero (stand_ins.py, line ")
    with pytest.raises(KeyError, match="a defect"):
        main([*command, "101"])


def test_what_is_refused_before_the_first_step_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "base", "--figures.name="]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "laser-lightning: error: The recorder has no name: give it one."


def test_what_the_trainer_refuses_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, "fit", "--config", "base", "--trainer.strategy", "no_such")
    assert message.startswith("You selected an invalid strategy name: `strategy='no_such'`.")


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("--trainer.gradient_clip_val=1", "give model.optimizer.max_grad_norm, "),
        ("--trainer.accumulate_grad_batches=4", "give data.prompts_per_step; model.update.micro_batch_tokens "),
        ("--trainer.barebones=true", "such as --checkpoint null"),
    ],
)
def test_remedies_of_lightning_that_do_not_exist_here_name_our_keys(
    capsys: pytest.CaptureFixture[str], option: str, instead: str
) -> None:
    message = error_of(capsys, "fit", "--config", "base", "--model", "stand_ins.ManualNet", option)
    assert message.startswith(option.removeprefix("--").partition("=")[0])
    assert instead in message


def test_a_metric_that_nobody_logs_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    stop = (
        "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: no_such}}]}"
    )
    assert main(["fit", "--config", "base", "--config", overlay(stop)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "laser-lightning: error: Early stopping conditioned on metric `no_such` which is not available"
    )
