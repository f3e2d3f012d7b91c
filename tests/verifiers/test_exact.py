import pytest

from laser_lightning.verifiers import ExactVerifier


def test_the_whole_response_is_the_answer_by_default() -> None:
    verifier = ExactVerifier()
    assert verifier.extract("  12 + 3 \n") == "12 + 3"
    assert verifier.extract(" \n") is None
    assert verifier.reward(" 15\n", "15 ") == 1.0
    assert verifier.reward("15.0", "15") == 0.0


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("work\n#### 5", "5"),
        ("#### 5\n####  6 \nmore", "6"),
        ("no marker", None),
        ("#### 5\n####  ", None),
    ],
)
def test_the_last_match_of_the_pattern_is_the_answer(response: str, answer: str | None) -> None:
    assert ExactVerifier(r"####(.*)").extract(response) == answer


def test_a_group_that_takes_no_part_in_the_match_gives_no_answer() -> None:
    assert ExactVerifier(r"answer(?: (\d+))?").extract("answer") is None


def test_case() -> None:
    assert ExactVerifier().reward("Yes", "yes") == 0.0
    verifier = ExactVerifier(ignore_case=True)
    assert verifier.reward("Yes", "yes ") == 1.0
    assert verifier.canonical(" Straße") == "strasse"


def test_an_empty_gold_answer_is_refused() -> None:
    ExactVerifier().check_gold("0")
    with pytest.raises(ValueError, match="The gold answer is empty"):
        ExactVerifier().check_gold(" \n")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is not a regular expression"),
        ("####", "exactly one group.* has 0"),
        (r"(\d+)/(\d+)", "exactly one group.* has 2"),
    ],
)
def test_bad_patterns_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExactVerifier(pattern)
