"""Real gold answers, from the data beside the project."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from laser_lightning.verifiers import MathVerifier
from laser_lightning.verifiers.agreement import is_readable
from laser_lightning.verifiers.answers import read_answer
from laser_lightning.verifiers.latex import clean, unwrap

DATA = Path(__file__).parents[2].parent / "shared/data"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no data at {DATA}")

# Both are defects of the source: a stray letter before an interval, and a sentence. They match by spelling only.
NOT_MATHEMATICS = {
    "olympiadbench": {
        "t(0,4]",
        r"f(x)=a x+b, where b is an arbitrary integer, and a is an arbitrary positive integer with \mho(a)=0",
    }
}


def gold_answers(name: str) -> list[str]:
    rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    return [str(row["answer"]).split("####")[-1].strip() for row in rows]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("math500", 500),
        ("amc23", 40),
        ("aime24", 30),
        ("aime25", 30),
        ("olympiadbench", 675),
        ("gsm8k_test", 1319),
    ],
)
def test_every_gold_answer_passes_and_matches_itself(name: str, rows: int) -> None:
    verifier = MathVerifier(require_box=True)
    golds = gold_answers(name)
    assert len(golds) == rows
    for gold in golds:
        verifier.check_gold(gold)
    assert [gold for gold in golds if verifier.reward(f"It is $\\boxed{{{gold}}}$.", gold) != 1.0] == []


@pytest.mark.parametrize("name", ["math500", "olympiadbench"])
def test_computer_algebra_reads_the_gold_answers(name: str) -> None:
    # Matching itself needs no parser, matching another form does.
    unread = {gold for gold in gold_answers(name) if not is_readable(read_answer(unwrap(clean(gold))), 1)}
    assert unread == NOT_MATHEMATICS.get(name, set())


def test_worked_solutions_match_their_gold_answers() -> None:
    verifier = MathVerifier(require_box=True)
    rows = [json.loads(line) for line in (DATA / "math500.jsonl").read_text().splitlines()]
    wrong = [row["answer"] for row in rows if verifier.reward(row["solution"], row["answer"]) != 1.0]
    assert wrong == []


def test_shifted_gold_answers_do_not_match() -> None:
    verifier = MathVerifier()
    golds = gold_answers("gsm8k_test")
    wrong = [
        (answer, gold)
        for answer, gold in pairwise(golds)
        if verifier.equivalent(answer, gold) != (answer.replace(",", "") == gold.replace(",", ""))
    ]
    assert wrong == []
