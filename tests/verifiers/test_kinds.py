"""Kinds of answers that verifiers are known to get wrong, on the side of the answer and of the gold answer."""

from pathlib import Path

import pytest
import yaml

from laser_lightning.verifiers import MathVerifier

KINDS = yaml.safe_load((Path(__file__).parent / "kinds.yaml").read_text(encoding="utf-8"))


def pairs(kind: str, section: str) -> list[tuple[str, str, bool]]:
    """(gold, answer or response, verdict) of each case."""
    verdicts = KINDS[kind].get(section, {}).items()
    return [(gold, text, verdict == "right") for verdict, cases in verdicts for gold, text in cases]


@pytest.mark.parametrize("kind", list(KINDS))
def test_answers_in_a_box(kind: str) -> None:
    verifier = MathVerifier()
    for gold, _, _ in pairs(kind, "answers"):
        verifier.check_gold(gold)
    judged = [
        (gold, answer, verifier.reward(f"Thus $\\boxed{{{answer}}}$.", gold) == 1.0)
        for gold, answer, _ in pairs(kind, "answers")
    ]
    assert judged == pairs(kind, "answers")


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_is_judged_so_on_one_side_is_judged_so_on_the_other(kind: str) -> None:
    judged = [(gold, answer, MathVerifier().equivalent(gold, answer)) for gold, answer, _ in pairs(kind, "answers")]
    assert judged == pairs(kind, "answers")


@pytest.mark.parametrize("kind", list(KINDS))
def test_votes_for_different_answers_are_not_merged(kind: str) -> None:
    verifier = MathVerifier()
    wrong = [(gold, answer) for gold, answer, right in pairs(kind, "answers") if not right]
    assert [case for case in wrong if verifier.canonical(case[1]) == verifier.canonical_gold(case[0])] == []


@pytest.mark.parametrize("kind", list(KINDS))
def test_whole_responses(kind: str) -> None:
    judged = [(gold, text, MathVerifier().reward(text, gold) == 1.0) for gold, text, _ in pairs(kind, "responses")]
    assert judged == pairs(kind, "responses")
