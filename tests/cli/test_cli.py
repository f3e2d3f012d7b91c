import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from laser_lightning.cli import command_line, config_files
from laser_lightning.cli import trainer as cli
from laser_lightning.cli.command_line import main
from laser_lightning.cli.trainer import claim_directory

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


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What --print_config prints."""
    with pytest.raises(SystemExit) as end:
        main(["fit", *args, "--print_config"])
    assert end.value.code == 0
    return capsys.readouterr().out


def error_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line that an error of the user's leaves on stderr."""
    assert main(list(args)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "Seed set to 0" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("laser-lightning: error: ")
    return lines[0].removeprefix("laser-lightning: error: ")


def at(config: Any, key: str) -> Any:
    for word in key.split("."):
        config = config[word]
    return config


def test_fit_leaves_metrics_config_and_checkpoint_in_one_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "base"]) == 0
    run = Path("runs/version_0")
    assert (run / "metrics.csv").read_text().startswith("epoch,loss,step\n0,")
    assert len(list(run.glob("events.out.tfevents*"))) == 1
    assert (run / "checkpoints" / "last.ckpt").is_file()
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert at(saved, "model.init_args.settings") == {"rate": 0.2, "steps": 1}
    assert "not empty" not in capsys.readouterr().err
    # The saved config is a config again, and gives the same one.
    assert main(["fit", "--config", str(run / "config.yaml")]) == 0
    assert yaml.safe_load(Path("runs/version_1/config.yaml").read_text()) == saved


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_the_other_commands_run_with_the_same_config(command: str) -> None:
    assert main([command, "--config", "base"]) == 0
    assert Path("order.txt").read_text() == "figures summary "
    assert Path("runs/version_0/config.yaml").is_file()


def test_callbacks_run_in_order_of_their_slots_behind_the_users_own() -> None:
    own = overlay("trainer: {callbacks: [{class_path: stand_ins.Recorder, init_args: {name: own}}]}")
    calibration = ["--calibration", "stand_ins.Recorder", "--calibration.name", "calibration"]
    assert main(["fit", "--config", "base", "--config", own, *calibration]) == 0
    assert Path("order.txt").read_text() == "own calibration figures summary "


def test_null_switches_a_slot_off() -> None:
    assert main(["fit", "--config", "base", "--figures", "null", "--checkpoint=null"]) == 0
    assert Path("order.txt").read_text() == "summary "
    assert not Path("runs/version_0/checkpoints").exists()


@pytest.mark.parametrize(
    ("args", "key", "value"),
    [
        (["--trainer.max_steps", "7"], "trainer.max_steps", 7),
        (["--model.alpha=0.25"], "model.init_args.alpha", 0.25),
        (["--model.init_args.score.init_args.beta", "0.7"], "model.init_args.score.init_args.beta", 0.7),
        (["--model.settings.steps", "9"], "model.init_args.settings.steps", 9),
        (["--model.names", "[a, b]"], "model.init_args.names", ["a", "b"]),
        (["--data.batch", "3"], "data.init_args.batch", 3),
        (["--data.val.easy.init_args.size", "9"], "data.init_args.val.easy.init_args", {"size": 9, "seed": 3}),
        (["--data.val.easy.size", "9"], "data.init_args.val.hard.init_args.size", 3),
        (["--data.val.more", "stand_ins.Numbers"], "data.init_args.val.more.init_args.size", 4),
        (["--checkpoint.every_n_train_steps", "5"], "checkpoint.init_args.every_n_train_steps", 5),
        (["--checkpoint.init_args.every_n_train_steps", "5"], "checkpoint.init_args.save_last", True),
        (["--figures.name", "new"], "figures.init_args", {"name": "new", "file": "order.txt"}),
        (["--model", "stand_ins.OtherNet"], "model.class_path", "stand_ins.OtherNet"),
        (["--model.pattern", r"#(\d+)$"], "model.init_args.pattern", r"#(\d+)$"),
        (["--torch_threads", "2"], "torch_threads", 2),
    ],
)
def test_the_command_line_overrides_every_field(
    capsys: pytest.CaptureFixture[str], args: list[str], key: str, value: Any
) -> None:
    # Wherever the option stands: before the config, or behind it.
    assert at(yaml.safe_load(printed(capsys, *args, "--config", "base")), key) == value
    assert at(yaml.safe_load(printed(capsys, "--config", "base", *args)), key) == value


def test_a_config_may_stand_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    behind = printed(capsys, "--config", "base")
    with pytest.raises(SystemExit) as end:
        main(["--config", "base", "fit", "--print_config"])
    assert end.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(behind)


def test_configs_overlay_each_other_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    first = overlay(
        """
        model: {score: {beta: 0.9}, pattern: '#### (.+)'}
        data: {init_args: {val: {easy: {init_args: {size: 50}}}}}
        checkpoint: {every_n_train_steps: 20}
        figures: null
        trainer: {max_steps: 5, callbacks+: {class_path: stand_ins.Recorder}}
        """,
        "first.yaml",
    )
    second = overlay("trainer: {max_steps: 6, callbacks+: [{class_path: stand_ins.Recorder}]}", "second.yaml")
    config = yaml.safe_load(printed(capsys, "-c", "base", f"--config={first}", "--config", second))
    assert at(config, "model.init_args.score.init_args") == {"token": "z", "beta": 0.9}
    assert at(config, "model.init_args.pattern") == "#### (.+)"
    assert at(config, "model.init_args.settings.rate") == 0.2
    assert at(config, "data.init_args.val.easy.init_args") == {"size": 50, "seed": 3}
    assert at(config, "data.init_args.val.hard.init_args.size") == 3
    assert at(config, "checkpoint.init_args.every_n_train_steps") == 20
    assert at(config, "checkpoint.init_args.save_last") is True
    assert config["figures"] is None
    assert at(config, "trainer.max_steps") == 6
    assert [item["class_path"] for item in at(config, "trainer.callbacks")] == ["stand_ins.Recorder"] * 2


def test_printed_configs_hold_nothing_else_and_default_parts_need_no_class() -> None:
    command = [sys.executable, "-m", "laser_lightning", "fit", "--config", "quickstart", "--config", "strategy/zero2"]
    options = ["--model.engine.max_cached_tokens", "12345", "--model.policy_loss.clip_high", "0.3", "--print_config"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("# laser-lightning==")
    assert "WARNING" not in done.stdout  # DeepSpeed has something to say
    config = yaml.safe_load(done.stdout)
    assert at(config, "model.init_args.engine.init_args.max_cached_tokens") == 12345
    assert at(config, "model.init_args.policy_loss.init_args.clip_high") == 0.3


def test_print_config_is_commented_complete_and_reloadable(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--config", "base", "--model.names", "[a]", "--model.pattern", "#x")
    assert "# a weight. (type: float, default: 0.5)" in text  # of the model
    assert "# learning rate. (type: float, default: 0.1)" in text  # of a dataclass in it
    assert "# Saves checkpoints to resume from." in text  # of a slot
    config = yaml.safe_load(text)
    assert at(config, "model.init_args") == {
        "score": {"class_path": "stand_ins.Score", "init_args": {"token": "z", "beta": 0.3}},
        "alpha": 0.5,
        "settings": {"rate": 0.2, "steps": 1},
        "names": ["a"],
        "pattern": "#x",
    }
    assert {"run_dir", "torch_threads", "seed_everything", *cli.CALLBACK_SLOTS} <= config.keys()
    assert printed(capsys, "--config", overlay(text)) == text


def test_defaults_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load(printed(capsys, "--config", "base"))
    assert config["seed_everything"] == 0
    assert at(config, "trainer.num_sanity_val_steps") == 0
    assert at(config, "trainer.use_distributed_sampler") is False


def test_a_model_and_data_without_class_path_are_the_packages_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "model: {class_path: stand_ins.Net}\ndata: {class_path: stand_ins.Data}\n"
    defaults = yaml.safe_load(cli.DEFAULT_CLASSES)
    assert defaults["model"]["class_path"] == "laser_lightning.LaSeRModule"
    assert defaults["data"] == {"class_path": "laser_lightning.data.PromptDataModule"}
    for module in (cli, command_line):
        monkeypatch.setattr(module, "DEFAULT_CLASSES", own)
    short = overlay("{model: {score: {token: z}}, data: {train: stand_ins.Numbers, batch: 5}}")
    config = yaml.safe_load(printed(capsys, "--config", short))
    assert config["model"]["class_path"] == "stand_ins.Net"
    assert at(config, "model.init_args.score.init_args.token") == "z"
    assert at(config, "data.init_args.batch") == 5


def test_a_resumed_run_continues_the_files_of_its_directory(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fit", "--config", "base", "--run_dir", "here/run"]
    assert main(command) == 0
    (first,) = csv.DictReader(Path("here/run/metrics.csv").read_text().splitlines())
    assert list(first) == ["epoch", "loss", "step"]
    resumed = ["--trainer.max_steps", "2", "--ckpt_path", "last", "--allow_changes", "model.alpha"]
    assert main([*command, *resumed, "--model.alpha", "0.75"]) == 0
    rows = list(csv.DictReader(Path("here/run/metrics.csv").read_text().splitlines()))
    assert rows[0] == first | {"value": ""}  # the second start has an evaluation, and its column
    assert [row["step"] for row in rows] == ["0", "1", "1"]  # goes on where the first run ended
    # The config counts, not the hyper-parameters in the checkpoint.
    assert at(yaml.safe_load(Path("here/run/config.yaml").read_text()), "model.init_args.alpha") == 0.75
    assert at(yaml.safe_load(Path("here/run/config.1.yaml").read_text()), "model.init_args.alpha") == 0.5
    assert not Path("runs").exists()
    assert "will be deleted" not in capsys.readouterr().err


def test_own_loggers_come_beside_the_runs_directory() -> None:
    own = ["--trainer.logger", "lightning.pytorch.loggers.TensorBoardLogger", "--trainer.logger.save_dir", "logs"]
    assert main(["fit", "--config", "base", "--run_dir", "run", *own]) == 0
    assert Path("run/metrics.csv").is_file()
    assert Path("run/checkpoints/last.ckpt").is_file()
    assert len(list(Path("logs").rglob("events.out.tfevents*"))) == 1
    assert not list(Path("run").rglob("events.out.tfevents*"))
    assert main(["fit", "--config", "base", *own]) == 0
    assert Path("runs/version_0/metrics.csv").is_file()


def test_a_directory_is_claimed_once(tmp_path: Path) -> None:
    (tmp_path / "version_1").mkdir()
    claimed = [claim_directory(tmp_path) for _ in range(3)]
    assert [path.name for path in claimed] == ["version_0", "version_2", "version_3"]


def test_torch_threads_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    assert main(["fit", "--config", "base", "--torch_threads", "3"]) == 0
    assert numbers == [3]


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("laser-lightning ")


def test_the_console_script_finds_classes_in_the_working_directory() -> None:
    Path("my_file.py").write_text((STAND_INS / "stand_ins.py").read_text())
    config = overlay((STAND_INS / "base.yaml").read_text().replace("stand_ins.", "my_file."), "my.yaml")
    script = Path(sys.executable).with_name("laser-lightning")
    run = subprocess.run([script, "fit", "--config", config], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert Path("order.txt").read_text() == "figures summary "
