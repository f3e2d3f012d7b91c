"""Rows for the supervised stage: worked solutions, and questions whether a solution is right, as RISE asks them.

A policy that has only ever answered by a calculation would never say yes or no, and RISE would have nothing to reward.
All methods start from the same weights, so all have read these rows.
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from laser_lightning.cli.config_files import read_config
from laser_lightning.errors import UserError
from laser_lightning.modules.verification_prompts import fill_places

SOLUTIONS_BETWEEN = 4
"""A question follows every so many worked solutions."""

OTHER = {"+": "-", "-": "+", "*": "/", "/": "*"}
"""The operation that a wrong solution takes for each."""

_CALCULATION = re.compile(r"[\d()+*/.-]+")


def question() -> dict[str, str]:
    """The question of the packaged overlay, and its two answers: ``template``, ``correct_verdict``, ..."""
    model = yaml.safe_load(read_config("recipes/word_problems_rise"))["model"]
    return dict(model["init_args"]["verification_prompts"])


def wrong_solution(solution: str, generator: random.Random) -> str | None:
    """A worked solution with another operation, calculated rightly.

    Args:
        solution: such as ``4*7+2=30``.
        generator: chooses the operation.

    Returns:
        Such as ``4*7-2=26``; None where no other operation gives a whole number of at least 0 that is another one.
    """
    calculation, _, answer = solution.rpartition("=")
    if not _CALCULATION.fullmatch(calculation) or "**" in calculation or "//" in calculation:
        return None
    places = [place for place, character in enumerate(calculation) if character in OTHER and place]
    for place in generator.sample(places, len(places)):
        other = calculation[:place] + OTHER[calculation[place]] + calculation[place + 1 :]
        try:
            value = eval(other, {"__builtins__": {}})  # of digits and operations only
        except (SyntaxError, TypeError, ZeroDivisionError):  # TypeError: 2(3) is a call
            continue
        if value == int(value) >= 0 and str(int(value)) != answer:
            return f"{other}={int(value)}"
    return None


def supervised_rows(rows: list[dict[str, Any]], seed: int = 0) -> Iterator[dict[str, Any]]:
    """Worked solutions, with questions among them that are as often answered by yes as by no.

    Args:
        rows: with the columns ``problem``, ``answer`` and ``solution``.
        seed: of wrong solutions.
    """
    generator, asked = random.Random(seed), question()
    verdicts = (asked["correct_verdict"], asked["incorrect_verdict"])
    questions = 0
    for number, row in enumerate(rows, start=1):
        yield {name: row[name] for name in ("problem", "answer", "solution")}
        if number % SOLUTIONS_BETWEEN:
            continue
        right = questions % 2 == 0
        response = row["solution"] if right else wrong_solution(row["solution"], generator)
        if response is not None:
            questions += 1
            problem = fill_places(asked["template"], row["problem"], response)
            yield {"problem": problem, "answer": row["answer"], "solution": verdicts[not right]}


def write_supervised(problems: Path, path: Path) -> None:
    """Write the rows of a file of problems, and the questions, unless they are there.

    Args:
        problems: JSON lines with worked solutions.
        path: what is written.

    Raises:
        UserError: if a row has no worked solution.
    """
    rows = [json.loads(line) for line in problems.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, row in enumerate(rows):
        if not row.get("solution"):
            raise UserError(f"Row {number} of {problems} has no 'solution', of which the supervised stage learns.")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in supervised_rows(rows))
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
