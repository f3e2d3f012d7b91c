import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pytest

from laser_lightning.data.sources import FileSource, HubSource, as_text
from laser_lightning.errors import UserError

REAL_DATA = Path(__file__).parents[2].parent / "shared/data"
needs_real_data = pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the public problem sets are not at ../shared/data")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", "x"),
        (70, "70"),
        (10**30, "1" + "0" * 30),
        (True, "True"),
        (0.1, "0.1"),
        (70.0, "70"),
        # Numbers keep the digits that they are written with, and have no exponent.
        (0.00005, "0.00005"),
        (-1e-07, "-0.0000001"),
        (1e23, "1" + "0" * 23),
        (1234567.5, "1234567.5"),
        (Decimal("1E+3"), "1000"),
        ([5e-05, 1], "0.00005, 1"),
        (float("nan"), None),
        (None, None),
        (["2"], "2"),
        ([1, "b", 2.5], "1, b, 2.5"),
        ([], None),
        (["1", None], None),
    ],
)
def test_as_text(value: Any, expected: str | None) -> None:
    assert as_text(value) == expected


def test_default_columns_and_row_numbers(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"problem": f"p{i}", "answer": i, "id": "x"} for i in range(3)])
    assert FileSource(path).load().to_list() == [
        {"index": 0, "problem": "p0", "answer": "0"},
        {"index": 1, "problem": "p1", "answer": "1"},
        {"index": 2, "problem": "p2", "answer": "2"},
    ]


def test_named_columns(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"question": " p0 ", "final": " 7 ", "worked": "so 7", "level": 3},
        {"question": "p1", "final": "8", "worked": None, "level": 4},
    ]
    source = FileSource(
        write_jsonl(tmp_path / "a.jsonl", rows),
        problem_column="question",
        answer_column="final",
        solution_column="worked",
        kind_column="level",
    )
    assert source.load().to_list() == [
        {"index": 0, "problem": " p0 ", "answer": "7", "solution": "so 7", "kind": "3"},
        {"index": 1, "problem": "p1", "answer": "8", "solution": None, "kind": "4"},
    ]


def test_answer_pattern_takes_its_last_match_and_the_solution_stays_whole(tmp_path: Path) -> None:
    text = "#### 1 is what I thought first\nbut no\n#### 1,234 \n"
    source = FileSource(
        write_jsonl(tmp_path / "a.jsonl", [{"problem": "p", "answer": text}]),
        solution_column="answer",
        answer_pattern=r"####\s*(.+)",
    )
    assert source.load().to_list() == [{"index": 0, "problem": "p", "answer": "1,234", "solution": text}]


def test_answers_of_mixed_types_load_together(tmp_path: Path) -> None:
    answers = [70, "x^2", 0.5, ["1", "2"], ["3"]]
    path = write_jsonl(tmp_path / "a.jsonl", [{"problem": "p", "answer": answer} for answer in answers])
    assert FileSource(path).load()["answer"][:] == ["70", "x^2", "0.5", "1, 2", "3"]


def test_json_list_of_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"problem": "p", "answer": "1"}]))
    assert FileSource(str(path)).load().to_list() == [{"index": 0, "problem": "p", "answer": "1"}]


def test_csv_cells_stay_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a.CSV"
    path.write_text('\ufeffproblem,answer\n"a, b",007\nc,1.50\n', encoding="utf-8")
    assert FileSource(str(path)).load().to_list() == [
        {"index": 0, "problem": "a, b", "answer": "007"},
        {"index": 1, "problem": "c", "answer": "1.50"},
    ]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_dict({"problem": ["p", "q"], "answer": [["1", "2"], ["3"]]}).to_parquet(path)
    assert FileSource(str(path)).load()["answer"][:] == ["1, 2", "3"]


def test_whole_rows_have_all_columns_as_they_are(tmp_path: Path) -> None:
    rows = [
        {"problem": "1+1", "answer": "2", "tests": ["a", "b"], "level": 3},
        {"problem": None, "answer": "2", "level": 4},
        {"problem": "1+2", "answer": "3", "meta": {"from": "here"}},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = FileSource(str(path), invalid_rows="skip")
    with pytest.warns(UserWarning, match="row 1"):
        problems = source.load()
    assert list(source.whole_rows(problems)) == [rows[0], rows[2]]


def test_max_rows(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"problem": f"p{i}", "answer": i} for i in range(5)])
    assert FileSource(path, max_rows=2).load()["problem"][:] == ["p0", "p1"]


def test_missing_column_is_refused_with_the_columns_there_are(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "p", "answer": "1"}])
    message = f"'{path}' has no column 'problem' (problem_column): its columns are question, answer."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        FileSource(path).load()
    with pytest.raises(UserError, match=re.escape("no column 'worked' (solution_column)")):
        FileSource(path, problem_column="question", solution_column="worked").load()


INVALID: list[dict[str, Any]] = [
    {"problem": "p", "answer": "#1"},
    {"problem": "  ", "answer": "#1"},
    {"problem": "p", "answer": None},
    {"problem": "p"},
    {"problem": "p", "answer": "1"},
    {"problem": "q", "answer": "#2"},
]


def test_invalid_rows_are_refused_with_their_numbers(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", INVALID)
    message = (
        f"4 of the 6 rows of '{path}' cannot be used: row 1 (no problem), row 2 (no answer), "
        "row 3 (no answer), row 4 (answer_pattern finds nothing). Mend them"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        FileSource(path, answer_pattern="#(.)").load()


def test_ten_invalid_rows_are_named_and_the_others_counted(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"problem": "p", "answer": ""}] * 12)
    with pytest.raises(UserError, match=r"^12 of the 12 rows .* row 9 \(no answer\) and 2 more\."):
        FileSource(path).load()


def test_invalid_rows_are_skipped_with_a_warning_and_row_numbers_survive(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", INVALID)
    with pytest.warns(UserWarning, match="4 of the 6 rows .* left out"):
        loaded = FileSource(path, answer_pattern="#(.)", invalid_rows="skip").load()
    assert loaded["index"][:] == [0, 5]


@pytest.mark.filterwarnings("ignore:1 of the 1 rows")
def test_nothing_left_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"problem": "p", "answer": ""}])
    with pytest.raises(UserError, match="has no rows that can be used"):
        FileSource(path, invalid_rows="skip").load()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "has no rows"),
        ("a.jsonl", '{"problem": "p"}\n{oops\n', "Line 2 of .* is not JSON"),
        ("a.jsonl", "[1]\n", "Line 1 of .* is not a JSON object"),
        ("a.json", '{"problem": "p"}', "is not a JSON list of objects"),
        ("a.csv", "problem,answer\np,1,2\n", "Line 2 of .* has more cells than the 2 columns"),
        ("a.csv", "problem,problem\np,1\n", "names a column twice"),
        ("a.csv", 'problem,answer\n"p"x,1\n', "cannot be read as CSV, after line 1"),
        ("a.parquet", "not parquet", "cannot be read as Parquet"),
        ("a.txt", "x", r"none of the suffixes that can be read: \.jsonl, \.json, \.csv, \.parquet"),
        ("a.jsonl", '{"problem": "p", "answer": {"x": 1}}', "Row 0 of .* holds a dict.* in column 'answer'"),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        FileSource(str(path)).load()


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        FileSource(str(tmp_path / "a.jsonl")).load()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answer_pattern": "####.*"}, "has 0 groups"),
        ({"answer_pattern": "(a)(b)"}, "has 2 groups"),
        ({"answer_pattern": "(a"}, "is not a regular expression"),
        ({"answer_pattern": None}, "answer_pattern is null"),
        ({"max_rows": 0}, "max_rows is 0"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FileSource("a.jsonl", **settings)
    with pytest.raises(UserError, match=message):
        HubSource("owner/set", **settings)


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``datasets`` without a network and without the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline_hub")
def test_hub_source_selects_columns_and_splits(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", [{"question": "a", "answer": "so\n#### 1", "level": 2, "unused": [1]}])
    write_jsonl(folder / "test.jsonl", [{"question": t, "answer": f"#### {t}", "level": 5} for t in "bcd"])
    settings: dict[str, Any] = {
        "problem_column": "question",
        "answer_pattern": r"####\s*(.+)",
        "kind_column": "level",
    }
    assert HubSource(str(folder), **settings).load().to_list() == [
        {"index": 0, "problem": "a", "answer": "1", "kind": "2"}
    ]
    assert HubSource(str(folder), "test", max_rows=2, **settings).load()["problem"][:] == ["b", "c"]
    with pytest.raises(UserError, match=r"no column 'nope' \(kind_column\): its columns are question, answer"):
        HubSource(str(folder), "test", problem_column="question", kind_column="nope").load()


@pytest.mark.usefixtures("offline_hub")
def test_hub_source_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"could not be loaded: .* Check path, name and split"):
        HubSource(str(tmp_path / "nowhere")).load()
    with pytest.raises(UserError, match=r"'owner/no-such-set' \(split 'train'\) could not be loaded"):
        HubSource("owner/no-such-set").load()


GSM8K = {"problem_column": "question", "solution_column": "answer", "answer_pattern": r"####\s*(.+)"}


@needs_real_data
@pytest.mark.parametrize(
    ("name", "settings", "rows", "first_answer"),
    [
        ("gsm8k_train", GSM8K, 7473, "72"),
        ("gsm8k_test", GSM8K, 1319, "18"),
        (
            "math500",
            {"solution_column": "solution", "kind_column": "subject"},
            500,
            r"\left( 3, \frac{\pi}{2} \right)",
        ),
        ("amc23", {}, 40, "27"),
        ("aime24", {}, 30, "204"),
        ("aime25", {}, 30, "70"),
        ("olympiadbench", {}, 675, "2"),
    ],
)
def test_real_data(name: str, settings: dict[str, Any], rows: int, first_answer: str) -> None:
    loaded = FileSource(str(REAL_DATA / f"{name}.jsonl"), **settings).load()
    assert loaded["index"][:] == list(range(rows))
    assert loaded[0]["answer"] == first_answer
    assert {"problem", "answer"} <= set(loaded.column_names)
    assert ("solution" in loaded.column_names) == ("solution_column" in settings)
    assert ("kind" in loaded.column_names) == ("kind_column" in settings)
