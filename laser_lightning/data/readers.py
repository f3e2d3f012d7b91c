"""Rows of local files, with their values as they are written.

`datasets` would guess one type per column, turn CSV text into numbers, refuse JSON columns of mixed types, and leave a
copy in its cache.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from laser_lightning.errors import UserError

Row = dict[str, Any]

_ENCODING = "utf-8-sig"  # UTF-8, with or without the byte-order mark that spreadsheets write


def _read_jsonl(path: Path) -> list[Row]:
    """Rows of a file with one JSON object per line; blank lines are not rows."""
    rows = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = _parse_json(line, f"Line {number} of '{path}'")
        if not isinstance(row, dict):
            raise UserError(f"Line {number} of '{path}' is not a JSON object: write one {{...}} per line.")
        rows.append(row)
    return rows


def _read_json(path: Path) -> list[Row]:
    """Rows of a file that holds one JSON list of objects."""
    rows = _parse_json(_text(path), f"'{path}'")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"'{path}' is not a JSON list of objects: write [{{...}}, ...], or one object per line (.jsonl)."
        )
    return rows


def _read_csv(path: Path) -> list[Row]:
    """Rows of a comma-separated file whose first line names the columns; all values are text."""
    with path.open(encoding=_ENCODING, newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            names = list(reader.fieldnames or [])
            if len(set(names)) < len(names):
                raise UserError(f"'{path}' names a column twice: {', '.join(names)}.")
            rows = []
            for row in reader:
                if None in row:
                    raise UserError(
                        f"Line {reader.line_num} of '{path}' has more cells than the {len(names)} columns: "
                        "put quotes around text with commas."
                    )
                rows.append(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(f"'{path}' cannot be read as CSV, after line {reader.line_num}: {error}.") from error
    return rows


def _read_parquet(path: Path) -> list[Row]:
    """Rows of a Parquet file."""
    try:
        return pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(f"'{path}' cannot be read as Parquet: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding=_ENCODING)
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not UTF-8 text: {error}.") from error


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error}.") from error


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
