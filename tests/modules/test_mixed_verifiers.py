"""A data set whose rows are judged by several verifiers, and data that cannot be judged, through the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from laser_lightning.cli.command_line import main

CONFIG = """
torch_threads: 1
model:
  init_args:
    policy:
      path: embedded
      random_init: true
      config_overrides: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1}
    self_reward:
      class_path: laser_lightning.LastTokenSelfReward
      init_args: {token: <|reward|>, beta: 0.1, reference: -20.0}
    verifier:
      class_path: laser_lightning.verifiers.MixedVerifier
      init_args:
        verifiers:
          math: {class_path: laser_lightning.verifiers.MathVerifier}
          text: {class_path: laser_lightning.verifiers.ExactVerifier, init_args: {pattern: '(\\d)'}}
    group_size: 2
    sampling: {max_response_tokens: 16}
    evaluation: {samples: 2}
data:
  train: &rows
    class_path: laser_lightning.data.FileSource
    init_args: {path: rows.jsonl, verifier_column: task}
  val: {digits: *rows}
  prompts_per_step: 2
trainer: {max_steps: 1, accelerator: cpu, devices: 1, enable_progress_bar: false}
solution_log: {class_path: laser_lightning.callbacks.SolutionLog}
"""

ROWS: list[dict[str, Any]] = [
    {"problem": "1+1", "answer": "2", "task": "math"},
    {"problem": "a digit", "answer": "?", "task": " text "},  # no mathematics, but a text
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains on rows for one step, and gives the exit status and the solutions."""

    def fit(rows: list[dict[str, Any]], *options: str) -> tuple[int, list[dict[str, Any]]]:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "run.yaml").write_text(CONFIG)
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        status = main(["fit", "--config", "run.yaml", "--run_dir", "run", *options])
        log = tmp_path / "run/solutions/val.jsonl"
        return status, [json.loads(line) for line in log.read_text().splitlines()] if status == 0 else []

    return fit


@pytest.mark.filterwarnings("ignore")
def test_each_row_is_judged_by_the_verifier_that_it_names(run: Any) -> None:
    status, solutions = run(ROWS)
    assert status == 0
    assert {(row["index"], row["verifier"]) for row in solutions} == {(0, "math"), (1, "text")}
    digits = [[c for c in row["response"] if c.isdecimal()] for row in solutions]
    expected = [found[-1] if found else None for found in digits]
    found = [row["answer"] for row in solutions if row["verifier"] == "text"]
    assert found == [digit for digit, row in zip(expected, solutions, strict=True) if row["verifier"] == "text"]
    assert {row["error"] for row in solutions} == {None}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            {"task": "mathematics"},
            (),
            "row 2 names the verifier 'mathematics', which the MixedVerifier does not have. ",
        ),
        ({"task": None}, (), "row 2 names no verifier, and the MixedVerifier has no `default`. Mend the column 'task'"),
        ({"answer": None}, (), "Set 'train': 1 of the 3 rows of 'rows.jsonl' cannot be used: row 2 (no answer). Mend"),
        ({"answer": " "}, (), "Set 'train': 1 of the 3 rows of 'rows.jsonl' cannot be used: row 2 (no answer). Mend"),
        ({"answer": "?"}, (), "1 of the 3 gold answers of the set 'train' can never be matched: row 2 "),
    ],
)
def test_a_row_that_cannot_be_judged_is_refused(
    run: Any, capsys: pytest.CaptureFixture[str], row: dict[str, Any], options: tuple[str, ...], message: str
) -> None:
    third = {"problem": "2+2", "answer": "4", "task": "math"} | row
    assert run([*ROWS, third], *options)[0] == 2
    assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_gold_answers_without_a_match_can_be_left_out(run: Any) -> None:
    bad = {"problem": "2+2", "answer": "?", "task": "math"}
    status, solutions = run([bad, *ROWS], "--data.unmatched_gold", "filter")
    assert status == 0
    assert {row["index"] for row in solutions} == {1, 2}
