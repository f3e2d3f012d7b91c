"""Columns inside of columns, and prompts that are lists of chat messages."""

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from laser_lightning.data.cells import column_names, is_unicode, split_messages, value_at
from laser_lightning.data.sources import FileSource, HubSource
from laser_lightning.errors import UserError

SYSTEM = {"role": "system", "content": "Be brief."}
# Rows as verl writes them.
VERL = [
    {
        "data_source": "gsm8k",
        "prompt": [SYSTEM, {"role": "user", "content": "1+2"}],
        "reward_model": {"ground_truth": "3", "style": "rule"},
        "extra_info": {"index": 7, "more": {"level": "easy"}},
    },
    {
        "data_source": "math",
        "prompt": [{"role": "user", "content": "2+2"}],
        "reward_model": {"ground_truth": "4", "style": "rule"},
        "extra_info": {"index": 8, "more": {"level": "hard"}},
    },
]
COLUMNS = {
    "problem_column": "prompt",
    "answer_column": "reward_model.ground_truth",
    "kind_column": "extra_info.more.level",
}
LOADED = [
    {"index": 0, "problem": "1+2", "answer": "3", "kind": "easy", "context": [SYSTEM]},
    {"index": 1, "problem": "2+2", "answer": "4", "kind": "hard", "context": []},
]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_columns_inside_of_columns_have_names_with_dots() -> None:
    assert list(column_names(VERL[0])) == [
        *("data_source", "prompt", "reward_model", "reward_model.ground_truth", "reward_model.style"),
        *("extra_info", "extra_info.index", "extra_info.more", "extra_info.more.level"),
    ]
    assert value_at(VERL[0], "extra_info.more.level") == "easy"
    assert value_at(VERL[0], "extra_info.more.no.such") is None
    assert value_at(VERL[0], "prompt.0") is None
    assert value_at({"a.b": 1, "a": {"b": 2}}, "a.b") == 1  # a column of this very name comes first


def test_verl_parquet_loads(tmp_path: Path) -> None:
    path = str(tmp_path / "train.parquet")
    datasets.Dataset.from_list(VERL).to_parquet(path)
    assert FileSource(path, **COLUMNS).load().to_list() == LOADED
    assert HubSource(str(tmp_path), **COLUMNS).load().to_list() == LOADED


def test_json_lines_of_the_same_shape_load(tmp_path: Path) -> None:
    assert FileSource(write(tmp_path / "a.jsonl", VERL), **COLUMNS).load().to_list() == LOADED
    # without messages in front of a problem there is no further column
    assert FileSource(write(tmp_path / "b.jsonl", VERL[1:]), **COLUMNS).load().column_names == [
        *("index", "problem", "answer", "kind")
    ]


def test_a_row_without_the_inner_column_has_no_answer(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [VERL[0], VERL[1] | {"reward_model": None}])
    with pytest.raises(UserError, match=r"1 of the 2 rows .*: row 1 \(no answer\)"):
        FileSource(path, **COLUMNS).load()


def test_an_inner_column_that_is_nowhere_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    datasets.Dataset.from_list(VERL).to_parquet(str(tmp_path / "train.parquet"))
    columns = COLUMNS | {"answer_column": "reward_model.truth"}
    for source in (FileSource(str(tmp_path / "train.parquet"), **columns), HubSource(str(tmp_path), **columns)):
        with pytest.raises(UserError, match=r"no column 'reward_model.truth' .*reward_model.ground_truth"):
            source.load()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([{"role": "assistant", "content": "x"}], "ends with the message of 'assistant', not with the user's"),
        ([{"role": "user"}], "message 0, which is no text with a role"),
        ([SYSTEM, {"role": "user", "content": [{"type": "image"}]}], "message 1, which is no text with a role"),
        ([SYSTEM, "text"], "a dict, not text"),
    ],
)
def test_conversations_without_a_question_are_refused_with_their_row(tmp_path: Path, prompt: Any, message: str) -> None:
    path = write(tmp_path / "a.jsonl", [VERL[0], VERL[1] | {"prompt": prompt}])
    with pytest.raises(UserError, match=rf"^Row 1 of .* holds .*{re.escape(message)}.*, in column 'prompt'"):
        FileSource(path, **COLUMNS).load()


@pytest.mark.parametrize("cell", ["text", 3, None, [], ["1", "2"]])
def test_other_cells_are_no_conversations(cell: Any) -> None:
    assert split_messages(cell) == ([], cell)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"problem": "\ud835", "answer": "1"}, "problem"),
        ({"problem": "p", "answer": "x\udc00"}, "answer"),
        ({"problem": "p", "answer": "1", "worked": "\ud800 so"}, "worked"),
        ({"problem": [SYSTEM | {"content": "\ud835"}, {"role": "user", "content": "p"}], "answer": "1"}, "problem"),
    ],
)
def test_one_half_of_a_surrogate_pair_is_refused_or_skipped_with_its_row(
    tmp_path: Path, row: dict[str, Any], column: str
) -> None:
    whole = {"problem": "\U0001d465", "answer": "2", "worked": "w"}  # both halves are a character
    source = FileSource(write(tmp_path / "a.jsonl", [whole, row]), solution_column="worked")
    with pytest.raises(UserError, match=rf"row 1 \(one half of a surrogate pair, .* in '{column}'\)"):
        source.load()
    source = FileSource(source.path, solution_column="worked", invalid_rows="skip")
    with pytest.warns(UserWarning, match="row 1 "):
        assert source.load()["problem"][:] == ["\U0001d465"]
    assert is_unicode("\U0001d465")
    assert not is_unicode("\U0001d465\ud835")
