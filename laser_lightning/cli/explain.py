"""Why a verifier rewarded a response as it did; ``laser-lightning explain``."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from jsonargparse import ArgumentParser

from laser_lightning.cli.config_files import load_configs
from laser_lightning.errors import UserError
from laser_lightning.verifiers import MathVerifier, Verifier, VerifierPool

_TIMEOUT_SECONDS = 10.0


class Row(NamedTuple):
    """A response to explain.

    Attributes:
        where: its place, for the reader.
        response: the text that the model wrote.
        gold: the gold answer.
        name: the verifier that its problem names, of a ``MixedVerifier``'s.
    """

    where: str
    response: str
    gold: str
    name: str | None


def explanations(rows: Sequence[Row], verifier: Verifier) -> Iterator[str]:
    """A line on each response: its reward, what was found and compared, and what decided.

    Every response is verified in another process first, so that one that never ends says so and costs nothing more.

    Args:
        rows: the responses.
        verifier: that judges them.
    """
    with VerifierPool(verifier, workers=1, timeout_seconds=_TIMEOUT_SECONDS) as pool:
        verifications = pool.verify([row[1:] for row in rows])
    for row, verification in zip(rows, verifications, strict=True):
        if verification.error is not None:
            yield f"{row.where}reward 0: the verifier failed: {verification.error}"
            continue
        found = verifier.named(row.name).explain(row.response, row.gold)
        compared = "" if found.answer is None else f"compared {found.answer!r} with {found.gold!r}; "
        yield f"{row.where}reward {found.reward:g}: extracted {found.extracted!r}; {compared}decided by: {found.rule}"


def solutions(path: Path) -> list[Row]:
    """The rows of a log of solutions.

    Args:
        path: JSON lines, each with ``response``, ``gold`` and, where problems name it, ``verifier``, as SolutionLog
            writes them.

    Raises:
        UserError: if there is no such file, or a line is not of that form.
    """
    if not path.is_file():
        raise UserError(f"There is no file {str(path)!r}.")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append(Row(f"line {number}: ", str(row["response"]), str(row["gold"]), row.get("verifier")))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"Line {number} of {path} is not a solution: an object with `response` and `gold`, as the solution log "
                "writes them."
            ) from error
    return rows


def configured_verifier(configs: Sequence[str]) -> Verifier:
    """The verifier of a run's configs.

    Args:
        configs: names or paths, overlaid in order.

    Raises:
        UserError: if they name none, or one that cannot be built.
    """
    values = yaml.safe_load(load_configs(configs).text) or {}
    model = values.get("model") or {}
    given = model.get("init_args", model).get("verifier")
    if given is None:
        raise UserError(f"{', '.join(configs)}: there is no model.verifier.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Verifier, "verifier", required=True)
    try:
        return parser.instantiate(parser.parse_object({"verifier": given})).verifier
    except (argparse.ArgumentError, ValueError) as error:
        raise UserError(f"{', '.join(configs)}: {error}") from error


def command(args: Sequence[str]) -> None:
    """``laser-lightning explain RESPONSE GOLD`` or ``laser-lightning explain --solutions FILE``.

    Args:
        args: the words behind ``explain``.

    Raises:
        UserError: if a file or a config cannot be used, or there is nothing to explain.
    """
    parser = argparse.ArgumentParser(
        prog="laser-lightning explain",
        description="Says what a verifier finds in a response and in the gold answer, and by which rule it decides.",
        allow_abbrev=False,
    )
    parser.add_argument("response", nargs="?", help="what the model wrote")
    parser.add_argument("gold", nargs="?", help="the gold answer")
    parser.add_argument(
        "--solutions", type=Path, help="a log of solutions (solutions/*.jsonl of a run): a line on each of them"
    )
    parser.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        help="config of the run whose model.verifier judges, repeatable; default: MathVerifier as it is",
    )
    parser.add_argument("--verifier_name", help="which of a MixedVerifier's verifiers judges RESPONSE")
    given = parser.parse_args(args)
    if (given.solutions is None) == (given.gold is None) or (given.solutions and given.response):
        raise UserError("explain needs a RESPONSE and a GOLD answer, or --solutions FILE.")
    verifier = configured_verifier(given.config) if given.config else MathVerifier()
    rows = solutions(given.solutions) if given.solutions else [Row("", given.response, given.gold, given.verifier_name)]
    for line in explanations(rows, verifier):
        print(line)
