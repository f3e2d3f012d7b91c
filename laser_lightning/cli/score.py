"""``laser-lightning score``: self-rewards and verdicts of solutions in a file."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from laser_lightning.cli.export_options import (
    add_export_options,
    check_export_options,
    open_export,
    prompt_of,
    read_json_lines,
)
from laser_lightning.errors import UserError

if TYPE_CHECKING:
    from laser_lightning.data.templates import PromptTemplate
    from laser_lightning.inference.scorer import LaSeRScorer, Prompt

_ROWS_AT_ONCE = 256


class Given(NamedTuple):
    """A solution to score.

    Attributes:
        number: its line, from 1.
        row: all columns of the line.
        prompt: what the response answers, as text or as the messages of a chat; a problem has become a prompt.
        response: its text, or its token ids.
    """

    number: int
    row: dict[str, Any]
    prompt: "Prompt"
    response: str | list[int]


def read_solutions(path: Path, template: "PromptTemplate") -> Iterator[Given]:
    """Reads solutions line by line.

    Args:
        path: JSON lines, each with ``response`` and either ``prompt`` or ``problem``.
        template: how a problem becomes a prompt; a prompt is taken as it is.

    Raises:
        UserError: if there is no such file, or a line is not of that form.
    """
    for number, row in read_json_lines(path):
        if not isinstance(row, dict) or "response" not in row or not {"prompt", "problem"} & row.keys():
            raise UserError(f"Line {number} of {path} is not an object with `response` and `prompt` or `problem`.")
        response = row["response"]
        if not isinstance(response, str) and not (
            isinstance(response, list) and response and all(type(token) is int for token in response)
        ):
            raise UserError(f"Line {number} of {path}: `response` is neither a text nor a list of token ids.")
        yield Given(number, row, prompt_of(path, number, row, template), response)


def score_lines(solutions: Iterator[Given], scorer: "LaSeRScorer") -> Iterator[dict[str, Any]]:
    """Scores solutions.

    Args:
        solutions: any number; a few hundred are scored together.
        scorer: the model that judges them.

    Yields:
        Each row with ``self_reward`` and ``verdict`` (true for "correct").
    """
    while rows := list(islice(solutions, _ROWS_AT_ONCE)):
        scored = scorer.score([row.prompt for row in rows], [row.response for row in rows])
        for given, solution in zip(rows, scored, strict=True):
            yield {**given.row, "self_reward": solution.self_reward, "verdict": solution.verdict}


def command(args: Sequence[str]) -> None:
    """``laser-lightning score FILE.jsonl --model EXPORT`` or ``--server URL``.

    Args:
        args: the words behind ``score``.

    Raises:
        UserError: if the file or the model cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="laser-lightning score",
        description="Writes every line of FILE with the self-reward of its response, and the verdict.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "file",
        type=Path,
        help="JSON lines with `response` (text or token ids) and `prompt` (text or chat) or `problem`",
    )
    add_export_options(parser)
    given = parser.parse_args(args)
    check_export_options(given)
    from laser_lightning.data.templates import PromptTemplate  # behind --help: it takes seconds to import

    solutions = read_solutions(given.file, PromptTemplate(given.template, given.chat, given.system))
    first = next(solutions, None)  # what is wrong with the file is told before the model is loaded
    if first is None:
        raise UserError(f"{given.file} has no solutions.")
    scorer = open_export(given)
    with given.out.open("w", encoding="utf-8") if given.out else nullcontext(sys.stdout) as file:
        for row in score_lines(chain([first], solutions), scorer):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
