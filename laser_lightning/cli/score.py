"""``laser-lightning score``: self-rewards and verdicts of solutions in a file."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
    if not path.is_file():
        raise UserError(f"There is no file {str(path)!r}.")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _given(path, number, line, template)


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


def _given(path: Path, number: int, line: str, template: "PromptTemplate") -> Given:
    try:
        row = json.loads(line)
        line.encode("utf-8")
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"Line {number} of {path} has half of a surrogate pair, which is no character.") from error
    except ValueError as error:
        raise UserError(f"Line {number} of {path} is not JSON: {error}") from error
    if not isinstance(row, dict) or "response" not in row or not {"prompt", "problem"} & row.keys():
        raise UserError(f"Line {number} of {path} is not an object with `response` and `prompt` or `problem`.")
    response = row["response"]
    if not isinstance(response, str) and not (
        isinstance(response, list) and response and all(type(token) is int for token in response)
    ):
        raise UserError(f"Line {number} of {path}: `response` is neither a text nor a list of token ids.")
    prompt = row["prompt"] if "prompt" in row else _prompt_of(row["problem"], template)
    if not isinstance(prompt, str | list) or not prompt:
        raise UserError(f"Line {number} of {path}: the prompt is neither a text nor a list of chat messages.")
    return Given(number, row, prompt, response)


def _prompt_of(problem: Any, template: "PromptTemplate") -> Any:
    if not isinstance(problem, str):
        return None
    text = template.template.replace("{problem}", problem)
    system = [{"role": "system", "content": template.system}] if template.system else []
    return [*system, {"role": "user", "content": text}] if template.chat else text


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
    parser.add_argument("--model", type=Path, help="an export of a trained model; with --server its small files do")
    parser.add_argument("--server", metavar="URL", help="a vllm serve of the export: no weights are loaded here")
    parser.add_argument("--out", type=Path, help="file to write, not there yet; default: the output")
    parser.add_argument(
        "--reference",
        help="the model that training started from, for `reference: exact`; with --server the URL of its server",
    )
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="type of the weights")
    parser.add_argument("--device", help="such as cuda:1; default: cuda where there is one")
    parser.add_argument("--template", default="{problem}", help="data.template.template of the run, for `problem`")
    parser.add_argument("--chat", action="store_true", help="data.template.chat of the run, for `problem`")
    parser.add_argument("--system", default="", help="data.template.system of the run, for `problem`")
    given = parser.parse_args(args)
    if given.out is not None and given.out.exists():
        raise UserError(f"{given.out} exists already: name another file, or delete it.")
    if given.model is None and given.server is None:
        raise UserError("Nothing says which model judges: give --model, --server, or both.")
    if given.server is not None and (given.dtype or given.device):
        raise UserError("--dtype and --device are for weights that are loaded here: leave them out with --server.")
    # Behind --help: these take seconds to import.
    from laser_lightning.data.templates import PromptTemplate
    from laser_lightning.inference.scorer import LaSeRScorer

    solutions = read_solutions(given.file, PromptTemplate(given.template, given.chat, given.system))
    first = next(solutions, None)  # what is wrong with the file is told before the model is loaded
    if first is None:
        raise UserError(f"{given.file} has no solutions.")
    if given.server is not None:
        scorer = LaSeRScorer.from_server(given.server, given.model, reference=given.reference)
    else:
        scorer = LaSeRScorer.from_pretrained(
            given.model, dtype=given.dtype, device=given.device, reference=given.reference
        )
    with given.out.open("w", encoding="utf-8") if given.out else nullcontext(sys.stdout) as file:
        for row in score_lines(_behind(first, solutions), scorer):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _behind(first: Given, others: Iterator[Given]) -> Iterator[Given]:
    yield first
    yield from others
