"""Kinds of answers that verifiers are known to get wrong, on the side of the answer and of the gold answer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from laser_lightning.verifiers import MathVerifier

CASES = Path(__file__).parent / "kinds.yaml"


def cases(section: str) -> Iterator[tuple[str, str, bool]]:
    """(gold, answer or response, verdict) of each."""
    for sections in yaml.safe_load(CASES.read_text(encoding="utf-8")).values():
        for verdict, pairs in sections.get(section, {}).items():
            for gold, text in pairs:
                yield gold, text, verdict == "right"


@pytest.mark.parametrize(("gold", "answer", "right"), list(cases("answers")))
def test_answers_in_a_box(gold: str, answer: str, right: bool) -> None:
    verifier = MathVerifier()
    verifier.check_gold(gold)
    assert verifier.reward(f"Thus $\\boxed{{{answer}}}$.", gold) == float(right)
    # What is judged so on one side is judged so on the other.
    assert verifier.equivalent(gold, answer) is right
    # Votes are merged by the canonical form, and verdicts remembered.
    assert right or verifier.canonical(answer) != verifier.canonical_gold(gold)


@pytest.mark.parametrize(("gold", "response", "right"), list(cases("responses")))
def test_whole_responses(gold: str, response: str, right: bool) -> None:
    assert MathVerifier().reward(response, gold) == float(right)
