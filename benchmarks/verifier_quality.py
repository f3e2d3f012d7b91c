"""How well MathVerifier judges: hard cases by category, and agreement with labelled solutions.

    python benchmarks/verifier_quality.py
    python benchmarks/verifier_quality.py --labelled example_model_solutions.jsonl --worked math500.jsonl

The hard cases are those of tests/verifiers/hard_cases.yaml, whose verdicts were set by hand. Cases, labels and verdicts
that differ are listed, with what was extracted from both sides and the rule that decided.

``--labelled`` reads JSON lines of model solutions that somebody else judged, in one of two forms: the solutions that
openai/grade-school-math publishes (``ground_truth`` ends in "A: <answer>", and each model's object has ``solution`` and
``is_correct``), or a ``response``, a ``gold`` answer and ``correct`` (true or false) on each line. ``--worked`` reads
worked solutions (``solution``) beside their answers (``answer``): each should be judged correct, and wrong beside the
answer of the next problem, unless both answers are spelled alike.
"""

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from laser_lightning.verifiers import MathVerifier, VerifierPool

CASES = Path(__file__).parents[1] / "tests/verifiers/hard_cases.yaml"
SECONDS = 10.0


class Case(NamedTuple):
    """A response with the verdict of a human, or of whoever labelled it."""

    group: str
    gold: str
    response: str
    correct: bool


class Result(NamedTuple):
    """What the verifier says of a case."""

    case: Case
    reward: float
    error: str | None

    @property
    def agrees(self) -> bool:
        """Whether the verifier came to the same verdict."""
        return (self.reward > 0.5) == self.case.correct


def hard_cases() -> Iterator[Case]:
    """The cases of the table; answers get a box around them."""
    for section, categories in yaml.safe_load(CASES.read_text(encoding="utf-8")).items():
        for category, verdicts in categories.items():
            for verdict, pairs in verdicts.items():
                for gold, text in pairs:
                    response = f"Thus $\\boxed{{{text}}}$." if section == "answers" else text
                    yield Case(category, gold, response, verdict == "right")


def labelled(path: Path) -> Iterator[Case]:
    """Solutions with labels, in either form of the module's docstring."""
    for row in _rows(path):
        if "ground_truth" in row:
            gold = re.findall(r"^A: *(.+)$", row["ground_truth"], re.MULTILINE)[-1]
            for model, judged in row.items():
                if isinstance(judged, dict):
                    yield Case(model, gold, judged["solution"], judged["is_correct"])
        else:
            yield Case(path.stem, row["gold"], row["response"], row["correct"])


def worked(path: Path) -> Iterator[Case]:
    """Worked solutions beside their own answers, and beside those of the next problem."""
    rows = _rows(path)
    for row, following in zip(rows, [*rows[1:], rows[0]], strict=True):
        yield Case(f"{path.stem}, own answer", str(row["answer"]), row["solution"], True)
        other = str(following["answer"])
        yield Case(f"{path.stem}, next answer", other, row["solution"], str(row["answer"]) == other)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def judge(cases: Iterable[Case], verifier: MathVerifier, workers: int) -> list[Result]:
    """Verifies all cases under a time limit."""
    cases = list(cases)
    with VerifierPool(verifier, workers, SECONDS) as pool:
        verifications = pool.verify([(case.response, case.gold) for case in cases])
    return [Result(case, v.reward, v.error) for case, v in zip(cases, verifications, strict=True)]


def report(title: str, results: list[Result], verifier: MathVerifier, most: int) -> None:
    """Prints agreement by group, and the cases that differ."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.case.group, []).append(result)
    print(f"\n## {title}\n\n| group | cases | agree | wrongly right | wrongly wrong |\n| --- | --- | --- | --- | --- |")
    for name, members in [*groups.items(), ("all", results)]:
        differ = [result for result in members if not result.agrees]
        accepted = sum(not result.case.correct for result in differ)
        share = 1 - len(differ) / len(members)
        print(f"| {name} | {len(members)} | {share:.2%} | {accepted} | {len(differ) - accepted} |")
    differ = [result for result in results if not result.agrees]
    for result in differ[:most]:
        case = result.case
        verdict = "wrongly right" if result.reward > 0.5 else "wrongly wrong"
        print(f"\n- {verdict} ({case.group}): gold {case.gold!r}, response ...{case.response[-100:]!r}")
        if result.error is not None:
            print(f"  {result.error}")
        else:
            why = verifier.explain(case.response, case.gold)
            print(f"  extracted {why.extracted!r}, compared {why.answer!r} with {why.gold!r}: {why.rule}")
    if len(differ) > most:
        print(f"\nand {len(differ) - most} more (--most)")


def main() -> None:
    """Prints the table of hard cases, and one for each file."""
    parser = argparse.ArgumentParser(description="Measures the quality of MathVerifier.", allow_abbrev=False)
    parser.add_argument("--labelled", type=Path, nargs="*", default=[], help="JSON lines of labelled solutions")
    parser.add_argument("--worked", type=Path, nargs="*", default=[], help="JSON lines of worked solutions")
    parser.add_argument("--most", type=int, default=20, help="differences to list for each table")
    parser.add_argument("--workers", type=int, default=1, help="processes of the verifier")
    given = parser.parse_args()
    verifier = MathVerifier()
    tables = [("Hard cases", hard_cases())]
    tables += [(f"Labelled solutions: {path.name}", labelled(path)) for path in given.labelled]
    tables += [(f"Worked solutions: {path.name}", worked(path)) for path in given.worked]
    for title, cases in tables:
        report(title, judge(cases, verifier, given.workers), verifier, given.most)


if __name__ == "__main__":
    main()
