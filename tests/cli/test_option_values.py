from pathlib import Path
from typing import Any

import pytest
import yaml

from laser_lightning.cli.command_line import main
from laser_lightning.cli.config_files import packaged_names
from laser_lightning.cli.option_values import dump_yaml, requoted
from laser_lightning.data import ArithmeticSource, PromptDataModule

TEXTS = [
    "?",
    "yes",
    "no",
    "on",
    "1e5",
    "1",
    "0x10",
    "12:30:00",
    "2026-11-25",
    "null",
    "~",
    "Note: x",
    "[a]",
    "#(.+)",
    " ",
    "a\nb",
]


def printed(capsys: pytest.CaptureFixture[str], *args: str, flag: str = "--print_config") -> str:
    with pytest.raises(SystemExit) as end:
        main(["fit", *args, flag])
    assert end.value.code == 0
    return capsys.readouterr().out


def assert_gives_again(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """What was printed has the same values where it is given as a config.

    The values alone: comments list every subclass that is imported, of which other tests define some.
    """
    Path("again.yaml").write_text(text)
    assert yaml.safe_load(printed(capsys, "--config", "again.yaml", flag="--print_config=")) == yaml.safe_load(text)


def at(config: Any, key: str) -> Any:
    for word in key.split("."):
        config = config.get("init_args", config)
        config = config[word]
    return config


@pytest.mark.parametrize(
    "key", ["model.optimizer.max_grad_norm", "model.policy.attention", "model.engine", "data.local_files"]
)
def test_null_on_the_command_line_is_null(capsys: pytest.CaptureFixture[str], key: str) -> None:
    assert at(yaml.safe_load(printed(capsys, "--config", "quickstart", f"--{key}", "null")), key) is None


def test_null_takes_a_named_set_out(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text("data: {val: {arithmetic: null}}")
    for args in (["--config", "own.yaml"], ["--data.val.arithmetic", "null"]):
        config = yaml.safe_load(printed(capsys, "--config", "quickstart", *args))
        assert at(config, "data.val") == {"arithmetic": None}
    source = ArithmeticSource()
    module = PromptDataModule(train=source, val={"arithmetic": None, "other": source}, test={"arithmetic": None})
    assert module.dataset_names("validate") == ["other"]
    assert module.dataset_names("test") == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model.policy.attention=None", "None"),
        ("model.policy.attention=yes", "yes"),
        ("model.policy.attention=1e5", "1e5"),
        ("data.template.system=Note: answer briefly", "Note: answer briefly"),
        ("data.template.template=User: {problem}", "User: {problem}"),
        ('data.local_files="in quotes"', '"in quotes"'),
        ("data.local_files=Note: x", "Note: x"),
        ("run_dir=yes", "yes"),
        ("model.policy.config_overrides.rope_theta=1e6", 1e6),
        ("model.optimizer.betas=[0.8, 0.9]", [0.8, 0.9]),
        ("data.val.arithmetic.seed=7", 7),
    ],
)
def test_values_arrive_as_written_and_what_is_printed_gives_them_again(
    capsys: pytest.CaptureFixture[str], option: str, value: Any
) -> None:
    text = printed(capsys, "--config", "quickstart", f"--{option}")
    assert at(yaml.safe_load(text), option.partition("=")[0]) == value
    assert_gives_again(capsys, text)


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# DeepSpeed's strategies take seconds to import, and Lightning's arguments for them are the same in all four.
WHOLE = [name for name in packaged_names() if name not in ("strategy/zero1", "strategy/zero2", "strategy/zero3")]


# Each takes seconds: by default one of each kind.
FEW = ("quickstart", "warm_start", "offline", "baselines/grpo", "eval/paper", "methods/exopd", "recipes/word_problems")


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in WHOLE]
)
def test_what_is_printed_of_a_packaged_config_gives_it_again(capsys: pytest.CaptureFixture[str], name: str) -> None:
    below = [] if name.startswith("paper/") or name in ("warm_start", "offline") else ["--config", "quickstart"]
    assert_gives_again(capsys, printed(capsys, *below, "--config", name))


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_written_as_texts(text: str) -> None:
    written = dump_yaml({"key": text, "list": [text]})
    assert yaml.safe_load(written) == {"key": text, "list": [text]}
    assert yaml.compose(written).value[0][1].style is not None or text == "a\nb"  # quoted for readers of YAML 1.2 too


def test_quotes_that_comments_cost_are_put_back() -> None:
    plain = dump_yaml({"a": "yes", "b": {"c": "no", "d": "word"}, "e": ["on", 1]})
    commented = "# a comment: 'x'\na: yes\nb:\n  # another\n  c: no\n  d: word\ne:\n- on\n- 1\n"
    expected = '# a comment: \'x\'\na: "yes"\nb:\n  # another\n  c: "no"\n  d: word\ne:\n- "on"\n- 1\n'
    assert requoted(commented, plain) == expected
