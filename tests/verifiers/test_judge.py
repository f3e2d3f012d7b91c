import math
import re
import sys
from fractions import Fraction

import pytest

from laser_lightning.verifiers import ExactVerifier, Verification, Verifier
from laser_lightning.verifiers.judge import Judge


class Counting(Verifier):
    """Answers are numbers modulo 10; counts its comparisons, and does what some responses ask for."""

    def __init__(self) -> None:
        self.comparisons = 0

    def extract(self, response: str) -> str | None:
        if response == "exit":
            sys.exit(4)
        if response == "interrupt":
            raise KeyboardInterrupt
        if response.startswith("raise"):
            raise RuntimeError(response)
        return response or None

    def canonical(self, answer: str) -> str:
        return str(int(answer) % 10)

    def equivalent(self, answer: str, gold: str) -> bool:
        self.comparisons += 1
        return self.canonical(answer) == gold


class Rewarding(ExactVerifier):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def reward(self, response: str, gold: str) -> float:
        return self.value  # type: ignore[return-value]


def test_reward_and_canonical_answer() -> None:
    judge = Judge(Counting())
    assert judge.verify("17", "7") == Verification(1.0, "7")
    assert judge.verify("18", "7") == Verification(0.0, "8")
    assert judge.verify("", "7") == Verification(0.0, None)


def test_answers_without_a_gold_one() -> None:
    verifier = Counting()
    judge = Judge(verifier)
    assert judge.find("17", "") == Verification(0.0, "7")
    assert judge.find("", "") == Verification(0.0, None)
    assert judge.find("raise it", "") == Verification(0.0, None, "RuntimeError: raise it")
    assert verifier.comparisons == 0


def test_equal_canonical_answers_are_compared_once() -> None:
    verifier = Counting()
    judge = Judge(verifier)
    assert [judge.verify(response, "7").reward for response in ("17", "27", "7", "8", "18")] == [
        1.0,
        1.0,
        1.0,
        0.0,
        0.0,
    ]
    assert verifier.comparisons == 2
    judge.verify("17", "8")
    assert verifier.comparisons == 3


def test_it_does_not_remember_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laser_lightning.verifiers.judge._REMEMBERED_VERDICTS", 2)
    verifier = Counting()
    judge = Judge(verifier)
    for response in ("1", "2", "3", "3", "2", "1"):
        judge.verify(response, "7")
    assert verifier.comparisons == 4  # 1, 2, 3 and, after 3 has taken its place, 1 again


def test_compare() -> None:
    judge = Judge(Counting())
    assert judge.compare("17", "7") == Verification(1.0, "7")
    assert judge.compare("17", "8") == Verification(0.0, "7")


@pytest.mark.parametrize(
    ("response", "error"),
    [("x", r"ValueError: invalid literal for int\(\) with base 10: 'x'"), ("exit", "SystemExit: 4")],
)
def test_what_is_raised_becomes_the_error(response: str, error: str) -> None:
    verification = Judge(Counting()).verify(response, "7")
    assert (verification.reward, verification.answer) == (0.0, None)
    assert verification.error is not None
    assert re.fullmatch(error, verification.error)


def test_an_interrupt_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        Judge(Counting()).verify("interrupt", "7")


def test_long_errors_are_cut() -> None:
    error = Judge(Counting()).verify("raise" + "x" * 5000, "7").error
    assert error == "RuntimeError: raise" + "x" * (300 - len("RuntimeError: raise"))


@pytest.mark.parametrize(
    ("value", "reward"), [(0.25, 0.25), (-3, -3.0), (3e38, 3e38), (True, 1.0), (Fraction(1, 2), 0.5)]
)
def test_a_verifier_may_have_its_own_reward(value: object, reward: float) -> None:
    verification = Judge(Rewarding(value)).verify(" answer ", "gold")
    assert verification == Verification(reward, "answer")
    assert type(verification.reward) is float


@pytest.mark.parametrize("value", [math.nan, -math.inf, 1e39, None, "1", [1.0], 1j])
def test_a_reward_that_is_no_finite_number_is_an_error(value: object) -> None:
    verification = Judge(Rewarding(value)).verify("answer", "gold")
    assert verification == Verification(
        0.0, None, f"ValueError: the reward must be a finite number (of float32), not {value!r}"
    )
