"""Where problems come from: the Hugging Face hub, local files, or a user's own source."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset, Features, Value, load_dataset
from datasets.exceptions import DatasetsError
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from laser_lightning.data.cells import Message, column_names, is_unicode, split_messages, value_at
from laser_lightning.data.readers import READERS
from laser_lightning.errors import UserError

InvalidRows = Literal["refuse", "skip"]

_ROWS_NAMED = 10  # in an error about rows


class ProblemSource(ABC):
    """A set of problems with gold answers. Subclass it for data that no other source can read."""

    @abstractmethod
    def load(self) -> Dataset:
        """Load the problems.

        Returns:
            A dataset with the text columns ``problem`` and ``answer`` and, where the source has them,
            ``kind`` (kind of problem), ``solution`` (worked solution), ``verifier`` (name of the verifier that
            judges the problem, of a ``MixedVerifier``'s) and ``index`` (row number in the source, by default the one
            in the dataset; no two alike). With a column ``reward`` (float, or null) the solutions are recorded ones
            and the rewards a verifier's: rows of the same prompt are then one problem, and may have the same index;
            ``finished`` (bool) is False for solutions that were cut. ``context`` holds chat messages in front of the
            problem, a list of mappings with ``role`` and ``content``.
        """

    def whole_rows(self, problems: Dataset) -> Iterable[Mapping[str, Any]]:
        """The rows behind the loaded problems with all the columns that the source has, in their order.

        Only read for verifiers that look at them.

        Args:
            problems: what ``load`` returned.
        """
        return problems


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what, and what to do with rows that lack it."""

    problem: str
    answer: str | None
    solution: str | None
    kind: str | None
    verifier: str | None
    answer_pattern: str
    max_rows: int | None
    invalid_rows: InvalidRows
    reward: str | None = None

    def __post_init__(self) -> None:
        if self.max_rows is not None and self.max_rows < 1:
            raise UserError(f"max_rows is {self.max_rows}: give a positive number, or leave it out for all rows.")
        if self.reward is not None and self.solution is None:
            raise UserError(
                f"reward_column is '{self.reward}', and solution_column, which names the solutions that were rewarded, "
                "is not set."
            )
        if self.answer is None and self.reward is None:
            raise UserError("answer_column is null: only recorded solutions (reward_column) need no gold answers.")
        if self.answer_pattern is None:
            raise UserError("answer_pattern is null: for no pattern, leave it out.")
        if not self.answer_pattern:
            return
        try:
            groups = re.compile(self.answer_pattern).groups
        except re.error as error:
            raise UserError(f"answer_pattern '{self.answer_pattern}' is not a regular expression: {error}.") from error
        if groups != 1:
            raise UserError(
                f"answer_pattern '{self.answer_pattern}' has {groups} groups: put exactly one pair of "
                "parentheses, around the answer, and write others as (?:...)."
            )

    @property
    def roles(self) -> dict[str, str]:
        """The source's column for each column of the result."""
        columns = {
            "problem": self.problem,
            "answer": self.answer,
            "solution": self.solution,
            "kind": self.kind,
            "verifier": self.verifier,
            "reward": self.reward,
        }
        return {role: column for role, column in columns.items() if column is not None}


def as_text(value: Any) -> str | None:
    """The text of a cell, or None when it is missing (null, NaN, an empty list).

    Whole floats lose their ``.0`` (a column of integers with gaps is often stored as floats), and no number is
    written with an exponent (0.00005, not 5e-05, which is also five times e minus five). The elements of a list are
    joined with ``", "``; a list of one is its element.

    Raises:
        TypeError: the cell is neither text, nor a number, nor a list of those.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return format(Decimal(repr(float(value))), "f").removesuffix(".0")
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        texts = [as_text(element) for element in value]
        present = [text for text in texts if text is not None]
        return ", ".join(present) if present and len(present) == len(texts) else None
    raise TypeError(f"a {type(value).__name__}, not text, a number or a list of those")


def as_reward(text: str | None, index: int, source: str) -> float | None:
    """The reward in a cell; None where there is none.

    Raises:
        UserError: it is neither a number nor true or false.
    """
    if text is None:
        return None
    try:
        reward = float({"true": "1", "false": "0"}.get(text.strip().lower(), text))
        if not math.isfinite(reward):
            raise ValueError
        return reward
    except ValueError as error:
        raise UserError(
            f"Row {index} of {source} has the reward '{text}': write numbers, or true and false."
        ) from error


def select_columns(rows: Iterable[Mapping[str, Any]], available: list[str], columns: Columns, source: str) -> Dataset:
    """Bring the rows of a table into the shape that ``ProblemSource.load`` promises.

    Args:
        rows: the table's rows, in order; a row's place is its ``index``.
        available: names of the table's columns.
        columns: which of them hold what.
        source: name of the table, for errors.

    Raises:
        UserError: a column is missing, rows have no problem or no answer (and are not to be skipped), or no
            row is left.
    """
    if not available:
        raise UserError(f"{source} has no rows.")
    for role, column in columns.roles.items():
        if column not in available:
            raise UserError(
                f"{source} has no column '{column}' ({role}_column): its columns are "
                f"{', '.join(available) or 'none at all'}."
            )
    selected: dict[str, list[Any]] = {role: [] for role in dict.fromkeys(("index", *columns.roles, "answer"))}
    contexts: list[list[Message]] = []
    invalid: list[str] = []
    for index, row in enumerate(islice(rows, columns.max_rows)):
        context, texts = _cells(row, columns, index, source)
        texts["answer"] = "" if columns.answer is None else _find_answer(texts["answer"], columns.answer_pattern)
        if name := texts.get("verifier"):
            texts["verifier"] = name.strip()  # it is looked up, so white space around it must not count
        rewarded = texts.get("reward") is not None
        if texts["problem"] is None or texts["answer"] is None or (rewarded and texts["solution"] is None):
            invalid.append(f"row {index} ({_reason(texts, row, columns)})")
            continue
        broken = [role for role, text in texts.items() if text is not None and not is_unicode(text)]
        if broken or not all(is_unicode(message["content"]) for message in context):
            where = columns.roles[broken[0] if broken else "problem"]
            invalid.append(f"row {index} (one half of a surrogate pair, which is no character, in '{where}')")
            continue
        contexts.append(context)
        reward = {"reward": as_reward(texts["reward"], index, source)} if columns.reward else {}
        for role, value in {"index": index, **texts, **reward}.items():
            selected[role].append(value)
    _report_invalid(invalid, len(invalid) + len(selected["index"]), columns.invalid_rows, source)
    if not selected["index"]:
        raise UserError(f"{source} has no rows{' that can be used' if invalid else ''}.")
    types = {"index": "int64", "reward": "float64"}
    features = Features({role: Value(types.get(role, "string")) for role in selected})
    if any(contexts):
        selected["context"] = contexts
        features["context"] = [{"role": Value("string"), "content": Value("string")}]
    return Dataset.from_dict(selected, features=features)


def _cells(
    row: Mapping[str, Any], columns: Columns, index: int, source: str
) -> tuple[list[Message], dict[str, str | None]]:
    """The chat messages in front of the problem, and the text of each column."""
    context: list[Message] = []
    texts: dict[str, str | None] = {}
    for role, column in columns.roles.items():
        try:
            cell = value_at(row, column)
            if role == "problem":
                context, cell = split_messages(cell)
            text = as_text(cell)
        except (TypeError, ValueError) as error:
            raise UserError(f"Row {index} of {source} holds {error}, in column '{column}'.") from error
        recorded = role == "solution" and columns.reward is not None  # a response may be empty, and wrong
        texts[role] = text if text is not None and (text.strip() or recorded) else None
    return context, texts


def _find_answer(text: str | None, pattern: str) -> str | None:
    if text is not None and pattern:
        matches = re.findall(pattern, text)
        text = matches[-1] if matches else None
    return (text.strip() or None) if text is not None else None


def _reason(texts: Mapping[str, str | None], row: Mapping[str, Any], columns: Columns) -> str:
    if texts["problem"] is None:
        return "no problem"
    if texts["answer"] is not None:
        return "a reward of no solution"
    assert columns.answer is not None
    text = as_text(value_at(row, columns.answer))
    return "answer_pattern finds nothing" if columns.answer_pattern and text and text.strip() else "no answer"


def _report_invalid(invalid: list[str], total: int, policy: InvalidRows, source: str) -> None:
    if not invalid:
        return
    named = ", ".join(invalid[:_ROWS_NAMED])
    more = f" and {len(invalid) - _ROWS_NAMED} more" if len(invalid) > _ROWS_NAMED else ""
    message = f"{len(invalid)} of the {total} rows of {source} cannot be used: {named}{more}"
    if policy == "refuse":
        raise UserError(f"{message}. Mend them, or leave them out with invalid_rows: skip.")
    rank_zero_warn(f"{message}. They are left out (invalid_rows: skip).")


class HubSource(ProblemSource):
    """A dataset of the Hugging Face hub, or whatever else ``datasets.load_dataset`` reads.

    Args:
        path: name of the dataset, e.g. ``openai/gsm8k``, or a local directory of data files.
        split: split of the dataset; slices such as ``train[:1000]`` work.
        name: configuration of the dataset, when it has several, e.g. ``main``.
        problem_column: column with the problem: text, or a list of chat messages that ends with the user's. A column
            inside of another is named with a dot, here and below: ``reward_model.ground_truth``.
        answer_column: column with the gold answer. Numbers become text, and lists are joined with ``", "``. null for
            recorded solutions (``reward_column``) without gold answers.
        solution_column: column with a worked solution (for the supervised stage); may be the answer's column.
        kind_column: column with the kind of problem, for metrics per kind.
        answer_pattern: regular expression with one group that finds the answer within its column; the last
            match counts. GSM8K: ``####\\s*(.+)``.
        max_rows: use only the first so many rows.
        invalid_rows: what to do with rows that have no problem or no answer: ``refuse`` the dataset, or
            ``skip`` them with a warning.
        verifier_column: column with the name of the verifier that judges the row, of a ``MixedVerifier``'s.
        reward_column: column with the reward of the solution in ``solution_column``, a number or true and false, which
            makes the rows recorded solutions; rows of the same prompt are one problem's. One without a reward is a
            worked solution.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        name: str | None = None,
        problem_column: str = "problem",
        answer_column: str | None = "answer",
        solution_column: str | None = None,
        kind_column: str | None = None,
        answer_pattern: str = "",
        max_rows: int | None = None,
        invalid_rows: InvalidRows = "refuse",
        verifier_column: str | None = None,
        reward_column: str | None = None,
    ) -> None:
        self.path, self.split, self.name = path, split, name
        self.columns = Columns(
            problem_column,
            answer_column,
            solution_column,
            kind_column,
            verifier_column,
            answer_pattern,
            max_rows,
            invalid_rows,
            reward_column,
        )

    def load(self) -> Dataset:
        """Load the split (from the local cache when there is one) and select its columns.

        Raises:
            UserError: the dataset cannot be loaded, or ``select_columns`` refuses it.
        """
        source = f"dataset '{self.path}' (split '{self.split}')"
        try:
            dataset = load_dataset(self.path, self.name, split=self.split)
        except (OSError, ValueError, DatasetsError) as error:
            raise UserError(
                f"The {source} could not be loaded: {error} Check path, name and split; without a network, "
                "point a FileSource at a local copy."
            ) from error
        available = list(column_names(dataset.features))
        named = [column for column in self.columns.roles.values() if column in available]
        needed = [name for name in dataset.column_names if any(f"{column}.".startswith(f"{name}.") for column in named)]
        return select_columns(dataset.select_columns(needed), available, self.columns, f"The {source}")

    def whole_rows(self, problems: Dataset) -> Iterable[Mapping[str, Any]]:
        """The rows of the dataset behind the problems (from the local cache)."""
        return load_dataset(self.path, self.name, split=self.split).select(problems["index"])


class FileSource(ProblemSource):
    """A local file: JSON lines, a JSON list of objects, CSV or Parquet.

    CSV cells stay as they are written (``007`` and ``1.50`` are not turned into numbers).

    Args:
        path: the file, with the suffix ``.jsonl``, ``.json``, ``.csv`` or ``.parquet``.
        problem_column: column with the problem: text, or a list of chat messages that ends with the user's. A column
            inside of another is named with a dot, here and below: ``reward_model.ground_truth``.
        answer_column: column with the gold answer. Numbers become text, and lists are joined with ``", "``. null for
            recorded solutions (``reward_column``) without gold answers.
        solution_column: column with a worked solution (for the supervised stage); may be the answer's column.
        kind_column: column with the kind of problem, for metrics per kind.
        answer_pattern: regular expression with one group that finds the answer within its column; the last
            match counts. GSM8K: ``####\\s*(.+)``.
        max_rows: use only the first so many rows.
        invalid_rows: what to do with rows that have no problem or no answer: ``refuse`` the file, or ``skip``
            them with a warning.
        verifier_column: column with the name of the verifier that judges the row, of a ``MixedVerifier``'s.
        reward_column: column with the reward of the solution in ``solution_column``, a number or true and false, which
            makes the rows recorded solutions; rows of the same prompt are one problem's. One without a reward is a
            worked solution.
    """

    def __init__(
        self,
        path: str,
        problem_column: str = "problem",
        answer_column: str | None = "answer",
        solution_column: str | None = None,
        kind_column: str | None = None,
        answer_pattern: str = "",
        max_rows: int | None = None,
        invalid_rows: InvalidRows = "refuse",
        verifier_column: str | None = None,
        reward_column: str | None = None,
    ) -> None:
        self.path = path
        self.columns = Columns(
            problem_column,
            answer_column,
            solution_column,
            kind_column,
            verifier_column,
            answer_pattern,
            max_rows,
            invalid_rows,
            reward_column,
        )

    def load(self) -> Dataset:
        """Read the file and select its columns.

        Raises:
            UserError: there is no such file, it cannot be read, or ``select_columns`` refuses it.
        """
        rows = self._read()
        available = list(dict.fromkeys(name for row in rows for name in column_names(row)))
        return select_columns(rows, available, self.columns, f"'{self.path}'")

    def whole_rows(self, problems: Dataset) -> Iterable[Mapping[str, Any]]:
        """The rows of the file behind the problems."""
        rows = self._read()
        return [rows[index] for index in problems["index"]]

    def _read(self) -> list[dict[str, Any]]:
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise UserError(f"There is no file '{self.path}' (looked for {path.absolute()}).")
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise UserError(f"'{self.path}' has none of the suffixes that can be read: {', '.join(READERS)}.")
        return reader(path)
