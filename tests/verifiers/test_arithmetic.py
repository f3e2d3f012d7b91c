"""The verifier of the embedded task: where steps lead, and what leads nowhere."""

import pytest

from laser_lightning.verifiers import ArithmeticVerifier


@pytest.mark.parametrize(
    ("response", "canonical"),
    [
        ("7*3=21;21+5=26", "3,5,7>26"),
        ("3*7=21;5+21=26", "3,5,7>26"),  # another spelling
        ("5+21=26", "5,21>26"),  # the same result of other numbers is another answer
        ("3+5=8;8-8=0", "3,5,8>0"),  # one 8 is a result, the other one given
        ("4*2=8;3+5=8;8*8=64", "2,3,4,5>64"),
        ("7-9=-2", "7-9=-2"),  # there are no negative numbers
        ("7*3=22;22+5=27", "7*3=22;22+5=27"),  # untrue
        ("7*3=21;3+5=8", "7*3=21;3+5=8"),  # 21 is not used
        ("7*3=21;", "7*3=21;"),
        ("21", "21"),
        ("#132", "132"),
        ("7+5=12;4+8+1=13;#132", "132"),
        ("#1#2 ", "2"),
        ("9" * 5000 + "+1=2", "9" * 5000 + "+1=2"),
        ("٣+5=8", "٣+5=8"),
    ],
)
def test_canonical_answers(response: str, canonical: str) -> None:
    verifier = ArithmeticVerifier()
    answer = verifier.extract(response)
    assert answer is not None
    assert verifier.canonical(answer) == canonical


@pytest.mark.parametrize("response", ["", "  ", "7+5=12;#"])
def test_no_answer(response: str) -> None:
    assert ArithmeticVerifier().extract(response) is None
    assert ArithmeticVerifier().reward(response, "3,5,7>26") == 0.0


@pytest.mark.parametrize(
    ("response", "gold", "reward"),
    [
        ("7*3=21;21+5=26", "3,5,7>26", 1.0),
        ("3+5=8;8+7=15", "3,5,7>26", 0.0),
        ("21+5=26", "3,5,7>26", 0.0),
        ("7*3=20;20+6=26", "3,5,7>26", 0.0),
        ("7+5=12;4+8+1=13;#132", "132", 1.0),
        ("7+5=12;4+8+1=14;#142", "132", 0.0),
    ],
)
def test_rewards(response: str, gold: str, reward: float) -> None:
    assert ArithmeticVerifier().reward(response, gold) == reward


def test_a_decision_says_where_each_leads() -> None:
    explanation = ArithmeticVerifier().explain("3+5=8;8+7=15", "3,5,7>26")
    assert explanation.rule == "leads to 3,5,7>15, not to 3,5,7>26"
    assert ArithmeticVerifier().explain("7*3=21;21+5=26", "3,5,7>26").rule == "equal results of the same numbers"
