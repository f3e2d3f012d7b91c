import json
from pathlib import Path

import pytest

from laser_lightning.cli.command_line import main
from laser_lightning.cli.score import read_solutions
from laser_lightning.data.templates import PromptTemplate
from laser_lightning.errors import UserError
from laser_lightning.inference.scorer import LaSeRScorer
from laser_lightning.objective.self_reward.settings import SelfRewardSettings


@pytest.fixture
def export(policy_dir: Path, tmp_path: Path) -> Path:
    """The tiny random model with the settings of a trained one."""
    directory = tmp_path / "export"
    directory.mkdir()
    for file in policy_dir.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    SelfRewardSettings("<|reward|>", 3, beta=0.25, reference_constant=-9.0, step=0).save(directory)
    return directory


def test_lines_become_prompts_and_responses(tmp_path: Path) -> None:
    file = tmp_path / "solutions.jsonl"
    chat = [{"role": "user", "content": "1+1="}]
    rows = [
        {"problem": "1+1=", "response": "2"},
        {"prompt": "as it is", "problem": "ignored", "response": [5, 1]},
        {"prompt": chat, "response": "2"},
    ]
    file.write_text("\n\n".join(json.dumps(row) for row in rows))
    given = list(read_solutions(file, PromptTemplate("Q: {problem}")))
    assert [(one.number, one.prompt, one.response) for one in given] == [
        (1, "Q: 1+1=", "2"),
        (3, "as it is", [5, 1]),
        (5, chat, "2"),
    ]
    asked = next(read_solutions(file, PromptTemplate(chat=True, system="Be brief.")))
    assert asked.prompt == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1="}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Line 1 of .* is not JSON"),
        ("[1]", "Line 1 of .* is not an object with `response` and `prompt` or `problem`"),
        ('{"response": "2"}', "is not an object with"),
        ('{"problem": "1", "response": 2}', "`response` is neither a text nor a list of token ids"),
        ('{"problem": 1, "response": "2"}', "the prompt is neither a text nor a list of chat messages"),
        ('{"problem": "\\ud800", "response": "2"}', "half of a surrogate pair"),
    ],
)
def test_a_line_of_another_form_is_refused(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "solutions.jsonl").write_text(line)
    with pytest.raises(UserError, match=message):
        list(read_solutions(tmp_path / "solutions.jsonl", PromptTemplate()))


def test_a_file_is_scored_as_the_scorer_scores_it(tmp_path: Path, export: Path) -> None:
    file, out = tmp_path / "solutions.jsonl", tmp_path / "scored.jsonl"
    rows = [{"problem": "1+1=", "response": "2", "mine": [1]}, {"prompt": "12*3=", "response": "36"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", str(file), "--model", str(export), "--out", str(out)]) == 0
    expected = LaSeRScorer.from_pretrained(export).score(["1+1=", "12*3="], ["2", "36"])
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert written == [
        {**row, "self_reward": one.self_reward, "verdict": one.verdict} for row, one in zip(rows, expected, strict=True)
    ]


def test_what_cannot_be_scored_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "solutions.jsonl"
    for arguments, message in [
        ([file], f"There is no file '{file}'."),
        ([tmp_path / "empty.jsonl"], "empty.jsonl has no solutions."),
        ([file, "--out", tmp_path / "empty.jsonl"], "empty.jsonl exists already: name another file, or delete it."),
    ]:
        (tmp_path / "empty.jsonl").touch()
        assert main(["score", *map(str, arguments), "--model", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
