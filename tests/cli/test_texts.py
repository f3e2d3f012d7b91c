"""A text is the same on the command line, in a file, in the parts of a run, and in every config that is written."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import set_dumper
from jsonargparse._loaders_dumpers import yaml_dump

from laser_lightning.cli import config_files
from laser_lightning.cli.command_line import main

STAND_INS = Path(__file__).parents[1] / "stand_ins"

TEXTS = [
    "Note: answer briefly",
    "User: {problem}",
    "User:",
    "[Question] {problem}",
    "[a, b]",
    "{a: b}",
    "{problem}",
    "- one",
    "# {problem}",
    "&name {problem}",
    "!tag {problem}",
    "yes",
    "No",
    "on",
    "true",
    "1e5",
    "1E5",
    "007",
    "0x10",
    "1_000",
    "12:30",
    ".5",
    ".inf",
    "2024-01-01",
    "'single'",
    '"double"',
    "two\nlines: {problem}",
    " {problem} ",
    "",
    "a://b",
    "−5 \\frac{1}{2}",
]

# a text in a class, in a class of a class, in a callback, and one of the program itself
FIELDS = {
    "--model.pattern": "model.init_args.pattern",
    "--model.score.token": "model.init_args.score.init_args.token",
    "--figures.name": "figures.init_args.name",
    "--run_dir": "run_dir",
}


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A working directory from which the stand-ins can be imported; their config is the only one with a name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(STAND_INS)
    monkeypatch.setattr(config_files, "packaged_root", lambda: STAND_INS)
    yield
    set_dumper("yaml", yaml_dump)


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What --print_config prints."""
    with pytest.raises(SystemExit) as end:
        main(["fit", *args, "--print_config"])
    assert end.value.code == 0
    return capsys.readouterr().out


def at(config: Any, key: str) -> Any:
    for word in key.split("."):
        config = config[word]
    return config


@pytest.mark.parametrize("text", [*TEXTS, "null", "~", "Null"])
def test_a_text_is_printed_as_it_was_given_and_read_again(capsys: pytest.CaptureFixture[str], text: str) -> None:
    # `null` is no text where null is allowed.
    fields = {k: v for k, v in FIELDS.items() if text.lower() not in ("null", "~") or k.endswith(("token", "name"))}
    options = [f"{option}={text}" for option in fields]
    out = printed(capsys, "--config", "base", *options)
    config = yaml.safe_load(out)
    assert {key: at(config, key) for key in fields.values()} == dict.fromkeys(fields.values(), text)
    Path("printed.yaml").write_text(out)
    assert printed(capsys, "--config", "printed.yaml") == out


@pytest.mark.parametrize("text", ["Note: {problem}", "yes", "1e5", "[a, b]"])
def test_a_text_is_saved_as_it_was_given_and_read_again(text: str) -> None:
    options = ["--model.pattern", text, "--model.names", f"[{text!r}]", "--figures.name", text, "--figures.file", "out"]
    assert main(["fit", "--config", "base", *options, "--run_dir", "1e5"]) == 0
    assert Path("out").read_text() == f"{text} "  # the callback got it
    saved = yaml.safe_load(Path("1e5/config.yaml").read_text())
    assert [at(saved, key) for key in ("model.init_args.pattern", "model.init_args.names", "run_dir")] == (
        [text, [text], "1e5"]
    )
    Path("again.yaml").write_text(Path("1e5/config.yaml").read_text())
    assert main(["fit", "--config", "again.yaml", "--run_dir", "yes"]) == 0
    assert yaml.safe_load(Path("yes/config.yaml").read_text()) == saved | {"run_dir": "yes"}


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        (["--model.pattern", "null"], "model.init_args.pattern", None),
        (["--model.names", "null"], "model.init_args.names", None),
        (["--model.names", "['yes', '1e5']"], "model.init_args.names", ["yes", "1e5"]),
        (["--model.settings", "{rate: 0.3, steps: 2}"], "model.init_args.settings", {"rate": 0.3, "steps": 2}),
        (["--model.score", "{class_path: stand_ins.Score, init_args: {token: 'a: b'}}"],
         "model.init_args.score.init_args.token", "a: b"),
        (["--data.val.hard", "{class_path: stand_ins.Numbers, init_args: {size: 9}}"],
         "data.init_args.val.hard.init_args.size", 9),
        (["--data.val.hard.init_args", "{size: 9}"], "data.init_args.val.hard.init_args.size", 9),
        (["--data.val.hard", "{size: 9}"], "data.init_args.val.hard.init_args.size", 9),
        (["--data.val", "{new: {class_path: stand_ins.Numbers}}"], "data.init_args.val.new.init_args.size", 4),
    ],
)  # fmt: skip
def test_what_is_no_text_is_read_as_before(
    capsys: pytest.CaptureFixture[str], options: list[str], key: str, value: Any
) -> None:
    assert at(yaml.safe_load(printed(capsys, "--config", "base", *options)), key) == value
