import pytest

from laser_lightning.verifiers import MultipleChoiceVerifier


@pytest.fixture
def verifier() -> MultipleChoiceVerifier:
    return MultipleChoiceVerifier()


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        (r"\boxed{C}", "C"),
        (r"\boxed{c}", "C"),
        (r"\boxed{(C)}", "C"),
        (r"\boxed{\text{C}}", "C"),
        (r"\boxed{\textbf{(C)}\ 12}", "C"),
        (r"\boxed{C: because}", "C"),
        (r"\boxed{A}, no, $\boxed{\mathrm{B}.}$ The answer is C.", "B"),
        (r"The answer is (D), that is \boxed{12}", "D"),
        (r"The answer is (D), that is \boxed{A number}", "D"),
        ("The answer is (C).", "C"),
        ("the answer is (c)", "C"),
        ("So the correct option is **B**.", "B"),
        ("**Answer:** C", "C"),
        ("Final answer: $D$", "D"),
        (r"The correct answer is \textbf{(A)}", "A"),
        (r"The answer is: \(\text{B}\)", "B"),
        ("The answer is option D", "D"),
        ("First I thought the answer is A. But the answer is B. Option C is wrong.", "B"),
        ("D", "D"),
        (" (d). ", "D"),
        ("**B**", "B"),
        ("The answer is a number", None),
        ("The answer is E", None),
        ("The answer is Double", None),
        ("The answer is D's", None),
        ("A or B", None),
        ("", None),
    ],
)
def test_extract(verifier: MultipleChoiceVerifier, response: str, letter: str | None) -> None:
    assert verifier.extract(response) == letter


def test_reward(verifier: MultipleChoiceVerifier) -> None:
    assert verifier.reward(r"\boxed{C}", "(C)") == 1.0
    assert verifier.reward(r"\boxed{C}", "c") == 1.0
    assert verifier.reward(r"\boxed{C}", "D") == 0.0
    assert verifier.reward("no idea", "C") == 0.0


def test_canonical(verifier: MultipleChoiceVerifier) -> None:
    assert [verifier.canonical(answer) for answer in ("c", "(C)", r"\text{C}")] == ["C"] * 3


def test_more_choices() -> None:
    verifier = MultipleChoiceVerifier("abcde")
    assert verifier.extract("The answer is E") == "E"
    verifier.check_gold("E")


@pytest.mark.parametrize("gold", ["A", "(b)", r"\text{(D)}", " C "])
def test_gold_letters_pass(verifier: MultipleChoiceVerifier, gold: str) -> None:
    verifier.check_gold(gold)


@pytest.mark.parametrize("gold", ["E", "", "AB", "12", "A number", "(C) 12"])
def test_other_gold_answers_are_refused(verifier: MultipleChoiceVerifier, gold: str) -> None:
    with pytest.raises(ValueError, match="not one of the letters A, B, C, D"):
        verifier.check_gold(gold)


@pytest.mark.parametrize("choices", ["", "A", "AA", "Aa", "A1", "A,B"])
def test_bad_choices_are_refused(choices: str) -> None:
    with pytest.raises(ValueError, match="`choices` must be two or more different letters"):
        MultipleChoiceVerifier(choices)
