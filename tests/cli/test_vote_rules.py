"""Keys of a list of parts, from files and from the command line: what configs show, and how misspelt ones are told."""

from pathlib import Path

import pytest
import yaml

from laser_lightning.cli.command_line import main

RULE = "my_vote_rule.MeanScore"
OVERLAY = f"model:\n  evaluation:\n    votes:\n    - class_path: {RULE}\n      init_args: {{least: 2}}\n"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with an overlay, from which the example can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs/examples")
    Path("rule.yaml").write_text(OVERLAY)


@pytest.mark.parametrize(
    "options",
    [
        ["--config=rule.yaml"],
        [f"--model.evaluation.votes+={RULE}", "--model.evaluation.votes.least=2"],
        [f'--model.evaluation.votes=[{{"class_path": "{RULE}", "init_args": {{"least": 2}}}}]'],
    ],
)
def test_configs_show_a_rule_with_its_arguments(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["validate", "--config=quickstart", *options, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["evaluation"]["votes"] == [{"class_path": RULE, "init_args": {"least": 2}}]


def test_help_shows_the_arguments_of_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["validate", "--config=quickstart", f"--model.evaluation.votes.help={RULE}"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "The answer with the highest mean self-reward, clamped to [0, 1], of its solutions" in shown
    assert "answers that fewer solutions give lose against those that so many give. (type: int, default: 1)" in shown


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("leest: 2", [], f"unknown key of {RULE}; did you mean least?"),
        ("least: 2", [f"--model.evaluation.votes+={RULE}", "--model.evaluation.votes.leest=2"], "did you mean least?"),
        ("least: 2", [f"--model.evaluation.vots+={RULE}"], "did you mean evaluation.votes?"),
        ("least: x", [], "expected int, got x"),
        ("least: 0", [], "least is 0, and must be at least 1."),
    ],
)
def test_mistakes_are_told(text: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rule.yaml").write_text(OVERLAY.replace("least: 2", text))
    assert main(["validate", "--config=quickstart", "--config=rule.yaml", "--run_dir=run", *options]) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists()
