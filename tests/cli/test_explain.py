"""`laser-lightning explain` says what the verifier found, and what decided."""

import json
from pathlib import Path

import pytest

from laser_lightning.cli.command_line import main

CONFIG = """
model:
  verifier:
    class_path: laser_lightning.verifiers.MixedVerifier
    init_args:
      verifiers:
        math: {class_path: laser_lightning.verifiers.MathVerifier, init_args: {require_box: true}}
        text: {class_path: laser_lightning.verifiers.ExactVerifier, init_args: {pattern: '#(.+)$'}}
"""


def test_a_response_and_its_gold_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", r"So it is \boxed{\dfrac{1}{2}}.", "0.50"]) == 0
    assert capsys.readouterr().out == (
        "reward 1: extracted '\\\\dfrac{1}{2}'; compared '1/2' with '1/2'; decided by: equal canonical forms\n"
    )
    assert main(["explain", "I do not know.", "0.50"]) == 0
    assert capsys.readouterr().out == "reward 0: extracted None; decided by: the response has no final answer\n"


def test_the_verifier_of_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    options = ["--config", str(tmp_path / "run.yaml"), "--verifier_name"]
    assert main(["explain", "The answer is 5. #6", "6", *options, "text"]) == 0
    assert "reward 1: extracted '6'; compared '6' with '6'; decided by: equal texts" in capsys.readouterr().out
    assert main(["explain", "The answer is 5. #6", "6", *options, "math"]) == 0
    assert "no final answer" in capsys.readouterr().out
    assert main(["explain", "7+8=#15", "15", "--config", "quickstart"]) == 0
    assert "reward 1: extracted '15'" in capsys.readouterr().out


def test_a_log_of_solutions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("laser_lightning.cli.explain._TIMEOUT_SECONDS", 2.0)
    (tmp_path / "run.yaml").write_text(CONFIG)
    log = tmp_path / "val.jsonl"
    rows = [
        {"response": r"\boxed{2}", "gold": "3", "verifier": "math", "reward": 0.0},
        {"response": "#a", "gold": "a", "verifier": "text"},
        {"response": "#a", "gold": "a", "verifier": None},
        {"response": r"\boxed{\prod_{k=1}^{10^9} (k^2+1)}", "gold": r"\sqrt{7}", "verifier": "math"},
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["explain", "--solutions", str(log), "--config", str(tmp_path / "run.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "line 1: reward 0: extracted '2'; compared '2' with '3'; decided by: two plain numbers"
    assert lines[1] == "line 2: reward 1: extracted 'a'; compared 'a' with 'a'; decided by: equal texts"
    assert lines[2].startswith("line 3: reward 0: the verifier failed: ValueError: names no verifier")
    assert lines[3] == "line 4: reward 0: the verifier failed: timed out after 2 s"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["only a response"], "explain needs a RESPONSE and a GOLD answer, or --solutions FILE."),
        (["a", "b", "--solutions", "log.jsonl"], "explain needs a RESPONSE and a GOLD answer, or --solutions FILE."),
        (["--solutions", "none.jsonl"], "There is no file 'none.jsonl'."),
        (["--solutions", "bad.jsonl"], "Line 2 of bad.jsonl is not a solution"),
        (["a", "b", "-c", "none.yaml"], "none.yaml"),
        (["a", "b", "-c", "empty.yaml"], "empty.yaml: there is no model.verifier."),
        (["a", "b", "-c", "wrong.yaml"], "`choices` must be two or more different letters"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text('{"response": "a", "gold": "b"}\n{"response": "a"}\n')
    Path("empty.yaml").write_text("model: {group_size: 2}\n")
    choices = "{class_path: laser_lightning.verifiers.MultipleChoiceVerifier, init_args: {choices: A}}"
    Path("wrong.yaml").write_text(f"model: {{verifier: {choices}}}\n")
    assert main(["explain", *args]) == 2
    assert message in capsys.readouterr().err
