"""What the commands that use an export share: which model, on which machine, and the form of a file's prompts."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_lightning.errors import UserError

if TYPE_CHECKING:
    from laser_lightning.data.templates import PromptTemplate
    from laser_lightning.inference.scorer import LaSeRScorer


def add_export_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that name the model, the output and the template."""
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


def check_export_options(given: argparse.Namespace) -> None:
    """Refuses options that contradict each other, before anything is loaded."""
    if given.out is not None and given.out.exists():
        raise UserError(f"{given.out} exists already: name another file, or delete it.")
    if given.model is None and given.server is None:
        raise UserError("Nothing says which model is meant: give --model, --server, or both.")
    if given.server is not None and (given.dtype or given.device):
        raise UserError("--dtype and --device are for weights that are loaded here: leave them out with --server.")


def open_export(given: argparse.Namespace, seed: int = 0) -> "LaSeRScorer":
    """The model that the options name, loaded or on its server.

    Args:
        given: the options.
        seed: of sampling.
    """
    from laser_lightning.inference.scorer import LaSeRScorer

    if given.server is not None:
        return LaSeRScorer.from_server(given.server, given.model, reference=given.reference, seed=seed)
    return LaSeRScorer.from_pretrained(
        given.model, dtype=given.dtype, device=given.device, reference=given.reference, seed=seed
    )


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Reads a file line by line, blank lines left out.

    Args:
        path: JSON lines.

    Yields:
        The line's number, from 1, and what it says.

    Raises:
        UserError: if there is no such file, or a line is not JSON.
    """
    if not path.is_file():
        raise UserError(f"There is no file {str(path)!r}.")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parse(path, number, line)


def prompt_of(path: Path, number: int, row: dict[str, Any], template: "PromptTemplate") -> str | list[dict[str, str]]:
    """The prompt of a line: its ``prompt`` as it is, or its ``problem`` in the template.

    Args:
        path: the file, for errors.
        number: the line's, for errors.
        row: with one of the two keys.
        template: how a problem becomes a prompt.

    Raises:
        UserError: if it is neither a text nor a chat.
    """
    prompt = row["prompt"] if "prompt" in row else _render(row["problem"], template)
    if not isinstance(prompt, str | list) or not prompt:
        raise UserError(f"Line {number} of {path}: the prompt is neither a text nor a list of chat messages.")
    return prompt


def _parse(path: Path, number: int, line: str) -> Any:
    try:
        row = json.loads(line)
        line.encode("utf-8")
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"Line {number} of {path} has half of a surrogate pair, which is no character.") from error
    except ValueError as error:
        raise UserError(f"Line {number} of {path} is not JSON: {error}") from error
    return row


def _render(problem: Any, template: "PromptTemplate") -> Any:
    if not isinstance(problem, str):
        return None
    text = template.template.replace("{problem}", problem)
    system = [{"role": "system", "content": template.system}] if template.system else []
    return [*system, {"role": "user", "content": text}] if template.chat else text
