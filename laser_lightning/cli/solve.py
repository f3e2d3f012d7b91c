"""``laser-lightning solve``: the problems of a file, solved by several solutions of an export and their vote."""

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
    from laser_lightning.inference.solve import Solved

_PROBLEMS_AT_ONCE = 64


class Problem(NamedTuple):
    """A problem to solve: all columns of its line, and its prompt."""

    row: dict[str, Any]
    prompt: "Prompt"


def read_problems(path: Path, template: "PromptTemplate") -> Iterator[Problem]:
    """Reads problems line by line.

    Args:
        path: JSON lines, each with ``prompt`` or ``problem``.
        template: how a problem becomes a prompt; a prompt is taken as it is.

    Raises:
        UserError: if there is no such file, or a line is not of that form.
    """
    for number, row in read_json_lines(path):
        if not isinstance(row, dict) or not {"prompt", "problem"} & row.keys():
            raise UserError(f"Line {number} of {path} is not an object with `prompt` or `problem`.")
        yield Problem(row, prompt_of(path, number, row, template))


def record(problem: Problem, solved: "Solved") -> dict[str, Any]:
    """What is written of a problem, in the words of ``predict``.

    Args:
        problem: its line.
        solved: its solutions and their vote.
    """
    vote = solved.vote
    solutions = [
        {
            "text": solution.text,
            "answer": answer,
            "self_reward": solution.self_reward,
            "verdict": solution.verdict,
            "finished": solution.finished,
            "tokens": len(solution.token_ids),
        }
        for solution, answer in zip(solved.solutions, vote.answers, strict=True)
    ]
    answers = {"majority": vote.majority, "weighted_majority": vote.weighted_majority, "best": vote.best}
    return {
        **problem.row,
        **answers,
        "chosen": vote.chosen,
        "k": len(solutions),
        "stopped": solved.stopped,
        "solutions": solutions,
    }


def command(args: Sequence[str]) -> None:
    """``laser-lightning solve FILE.jsonl --model EXPORT`` or ``--server URL``.

    Args:
        args: the words behind ``solve``.

    Raises:
        UserError: if the file, the model or an option cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog="laser-lightning solve",
        description="Writes every line of FILE with solutions to its problem, their self-rewards and their votes.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, help="JSON lines with `prompt` (text or chat) or `problem`")
    add_export_options(parser)
    parser.add_argument("--n", type=int, default=32, help="most solutions of a problem")
    parser.add_argument("--all", action="store_true", help="draw all n, also where the vote is decided before")
    parser.add_argument("--confidence", type=float, help="stop when the leading answer is ahead with this probability")
    parser.add_argument("--batch", type=int, default=4, help="solutions of each problem between two looks at its vote")
    parser.add_argument("--rule", help="a vote rule that came with the export: its answer is `chosen`")
    parser.add_argument("--answer", metavar="REGEX", help=r"its one group is the answer; default: the last \boxed{}")
    parser.add_argument("--max_tokens", type=int, default=512, help="most tokens of a response, <eos> included")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the most likely token")
    parser.add_argument("--top_p", type=float, default=1.0, help="the most likely tokens with this probability")
    parser.add_argument("--seed", type=int, default=0, help="of sampling")
    given = parser.parse_args(args)
    check_export_options(given)
    if given.all and given.confidence is not None:
        raise UserError("--all draws all solutions, and --confidence stops before: leave one of them out.")
    # Behind --help: these take seconds to import.
    from laser_lightning.data.templates import PromptTemplate
    from laser_lightning.inference.early_stop import EarlyStop
    from laser_lightning.rollout import Sampling
    from laser_lightning.verifiers import ExactVerifier, MathVerifier

    try:
        verifier = MathVerifier() if given.answer is None else ExactVerifier(given.answer)
    except ValueError as error:
        raise UserError(f"--answer: {error}") from error
    stop = None if given.all else EarlyStop(given.batch, given.confidence)
    sampling = Sampling(given.max_tokens, given.temperature, given.top_p)
    problems = read_problems(given.file, PromptTemplate(given.template, given.chat, given.system))
    first = next(problems, None)  # what is wrong with the file is told before the model is loaded
    if first is None:
        raise UserError(f"{given.file} has no problems.")
    scorer = open_export(given, given.seed)
    rule = None if given.rule is None else _rule(scorer, given.rule)
    every = chain([first], problems)
    with given.out.open("w", encoding="utf-8") if given.out else nullcontext(sys.stdout) as file:
        while rows := list(islice(every, _PROBLEMS_AT_ONCE)):
            found = scorer.solve([row.prompt for row in rows], given.n, verifier, stop, sampling, rule)
            for problem, solved in zip(rows, found, strict=True):
                file.write(json.dumps(record(problem, solved), ensure_ascii=False) + "\n")


def _rule(scorer: "LaSeRScorer", name: str) -> Any:
    if name not in scorer.rules:
        known = ", ".join(scorer.rules) or "none"
        raise UserError(f"The export has no vote rule '{name}': it brought {known} (votes.json).")
    return scorer.rules[name]
