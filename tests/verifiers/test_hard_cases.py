"""Answers that are hard to judge, against verdicts set by hand, and the explanations of all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from laser_lightning.verifiers import (
    Decision,
    ExactVerifier,
    Explanation,
    FunctionVerifier,
    MathVerifier,
    MultipleChoiceVerifier,
    Verification,
    Verifier,
)
from laser_lightning.verifiers.judge import Judge

CASES = Path(__file__).parent / "hard_cases.yaml"

# (gold, answer) judged wrong although right: the price of a reader that makes nothing up.
MISSED = {
    ("36", "36^o"),
    ("B", "B)"),
    (r"\text{B}", "B. 12"),
}


def cases() -> Iterator[tuple[str, str, str, bool]]:
    """(gold, text, response, verdict) of each."""
    for section, categories in yaml.safe_load(CASES.read_text(encoding="utf-8")).items():
        for verdicts in categories.values():
            for verdict, pairs in verdicts.items():
                for gold, text in pairs:
                    response = f"Thus $\\boxed{{{text}}}$." if section == "answers" else text
                    yield gold, text, response, verdict == "right"


@pytest.mark.parametrize(("gold", "text", "response", "right"), list(cases()))
def test_verdicts_and_explanations(gold: str, text: str, response: str, right: bool) -> None:
    verifier = MathVerifier()
    verifier.check_gold(gold)
    explanation = verifier.explain(response, gold)
    assert explanation.reward == float(right and (gold, text) not in MISSED)
    assert explanation.reward == verifier.reward(response, gold)
    assert Judge(verifier).verify(response, gold) == Verification(explanation.reward, explanation.answer)
    assert explanation.extracted == verifier.extract(response)
    if explanation.extracted is None:
        assert explanation.rule == "the response has no final answer"
    else:
        assert (explanation.reward == 1.0, explanation.rule) == verifier.decide(explanation.extracted, gold)


@pytest.mark.parametrize(
    ("response", "gold", "explanation"),
    [
        (r"\boxed{\dfrac12}", "$0.50$", (1.0, r"\dfrac12", "1/2", "1/2", "equal canonical forms")),
        (r"\boxed{0.333333}", "1/3", (1.0, "0.333333", "333333/1000000", "1/3", "two plain numbers")),
        (r"\boxed{3}", r"\boxed{4}", (0.0, "3", "3", "4", "two plain numbers")),
        (r"\boxed{\sqrt{12}}", r"2\sqrt3", (1.0, r"\sqrt{12}", r"\sqrt{12}", r"2\sqrt3", "computer algebra")),
        (r"\boxed{Bob Jr}", "Alice", (0.0, "Bob Jr", "Bob Jr", "alice", "computer algebra")),
        (r"\boxed{odd}", r"\text{even}", (0.0, "odd", "odd", "even", "other words")),
        (r"\boxed{Alice}", "Evelyn", (0.0, "Alice", "alice", "evelyn", "other words")),
        (r"\boxed{\mho(}", "1", (0.0, r"\mho(", r"\mho(", "1", "computer algebra cannot read the answer")),
        (r"\boxed{12_3}", "12_4", (0.0, "12_3", "12_3", "12_4", "other digits, or another base")),
        (r"\boxed{\{1,2\}}", "(1,2)", (0.0, r"\{1,2\}", r"\{1,2\}", "(1,2)", "a set is no tuple and no interval")),
        ("no answer", "1", (0.0, None, None, "1", "the response has no final answer")),
    ],
)
def test_explanations_of_the_math_verifier(response: str, gold: str, explanation: tuple) -> None:
    assert MathVerifier().explain(response, gold) == Explanation(*explanation)


def test_inequalities_and_lists_are_read_as_what_the_gold_answer_is() -> None:
    verifier = MathVerifier()
    assert verifier.decide("2 < x", r"(2,\infty)") == Decision(True, "computer algebra")
    assert verifier.decide("4, 3", "(3,4)") == Decision(False, "computer algebra")
    assert verifier.decide("3, 4", "(3,4)") == Decision(True, "computer algebra")


class NearEnough(MathVerifier):
    """Overrides `equivalent` alone."""

    def equivalent(self, answer: str, gold: str) -> bool:
        return super().equivalent(answer, gold) or answer == "almost"


@pytest.mark.parametrize(
    ("verifier", "response", "gold", "explanation"),
    [
        (ExactVerifier("#(.*)"), "#5 ", "5", (1.0, "5", "5", "5", "equal texts")),
        (ExactVerifier("#(.*)"), "#5.0", "5", (0.0, "5.0", "5.0", "5", "different texts")),
        (MultipleChoiceVerifier(), "answer: C", "(C)", (1.0, "C", "C", "C", "equal letters")),
        (MultipleChoiceVerifier(), "answer: C", "D", (0.0, "C", "C", "D", "different letters")),
        (MultipleChoiceVerifier(), "C", "E", (0.0, "C", "C", "E", "the gold answer is no letter of the choices")),
        (MultipleChoiceVerifier(), "", "D", (0.0, None, None, "D", "the response has no final answer")),
        (FunctionVerifier("operator.eq"), "a\nb", "a\nb", (1.0, "b", "b", "a\nb", "FunctionVerifier.reward")),
        (NearEnough(), r"\boxed{almost}", "5", (1.0, "almost", "almost", "5", "NearEnough.equivalent")),
        (NearEnough(), r"\boxed{6}", "5", (0.0, "6", "6", "5", "two plain numbers")),
    ],
)
def test_explanations_of_the_others(verifier: Verifier, response: str, gold: str, explanation: tuple) -> None:
    assert verifier.explain(response, gold) == Explanation(*explanation)
    assert verifier.explain(response, gold).reward == verifier.reward(response, gold)
