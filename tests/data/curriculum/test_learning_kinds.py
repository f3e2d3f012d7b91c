"""What SEC, the verification gap, DUMP and Dads make of outcomes, by hand."""

import math
from collections.abc import Callable

import pytest

from laser_lightning.data import DUMP, SEC, Curriculum, Dads, Problem, StepOutcome, VerificationGap
from laser_lightning.errors import UserError

Problems = Callable[[str], list[Problem]]
Outcomes = Callable[..., StepOutcome]


def test_sec(make_problems: Problems, make_outcome: Outcomes) -> None:
    curriculum = SEC(temperature=0.5, rate=0.5)
    curriculum.begin(make_problems("aab"))
    assert curriculum.probabilities() == {"a": 0.5, "b": 0.5}
    # a: abs 1 1 3 3, mean 2; b: mean 0.5. From 0 on half of it: 1 and 0.25.
    curriculum.learn(make_outcome("aba", [[1.0, 0.0]] * 3, [[1.0, -1.0], [0.5, -0.5], [3.0, -3.0]]))
    assert curriculum.values == {"a": 1.0, "b": 0.25}
    # b alone, mean 1: (0.25 + 1) / 2.
    curriculum.learn(make_outcome("b", [[1.0, 0.0]], [[1.0, -1.0]]))
    assert curriculum.values == {"a": 1.0, "b": 0.625}
    found = curriculum.probabilities()
    assert found["a"] / found["b"] == pytest.approx(math.exp((1 - 0.625) / 0.5), rel=1e-12)


def test_the_verification_gap(make_problems: Problems, make_outcome: Outcomes) -> None:
    curriculum = VerificationGap(rate=1.0)
    curriculum.begin(make_problems("ab"))
    # a: abs(0.75 - 1), abs(0.25 - 0): 0.25; b: the second was not judged, abs(1.5 - 1): 0.5.
    rewards, scores = [[1.0, 0.0], [1.0, 0.0]], [[0.75, 0.25], [1.5, math.nan]]
    curriculum.learn(make_outcome("ab", rewards, self_rewards=scores))
    assert curriculum.values == {"a": 0.25, "b": 0.5}
    with pytest.raises(UserError, match="no solution of the step has one"):
        curriculum.learn(make_outcome("a", [[1.0, 0.0]], self_rewards=[[math.nan, math.nan]]))


def test_dump(make_problems: Problems, make_outcome: Outcomes) -> None:
    curriculum = DUMP(window=3, temperature=0.5)
    curriculum.begin(make_problems("abc"))
    curriculum.learn(make_outcome("ab", [[1.0, 0.0]] * 2, [[1.0, -1.0], [0.25, -0.25]]))
    # 4 solutions, 2 of a and of b each, none of c: means 1, 0.25, 0, and sqrt(2 ln 5 / 3) or sqrt(2 ln 5 / 1).
    bonus = math.sqrt(2 * math.log(5) / 3)
    bounds = {"a": 1 + bonus, "b": 0.25 + bonus, "c": math.sqrt(2 * math.log(5))}
    total = sum(math.exp(bound / 0.5) for bound in bounds.values())
    expected = {kind: math.exp(bound / 0.5) / total for kind, bound in bounds.items()}
    assert curriculum.probabilities() == pytest.approx(expected, rel=1e-12)
    # Of a's four the first is out of the window.
    curriculum.learn(make_outcome("a", [[1.0, 0.0]], [[2.0, -3.0]]))
    assert curriculum.latest["a"] == [1.0, 2.0, 3.0]
    assert curriculum.counts == {"a": 4, "b": 2, "c": 0}


def test_dads(make_problems: Problems, make_outcome: Outcomes) -> None:
    curriculum = Dads(temperature=0.5, every_n_steps=2)
    curriculum.begin(make_problems("abc"))
    alike = pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert curriculum.probabilities() == alike
    curriculum.learn(make_outcome("a", [[1.0, 0.0]]))
    assert curriculum.probabilities() == alike, "not renewed yet"
    # a: 1 0 1 1, mean 0.75; b: 0; c keeps 0.
    curriculum.learn(make_outcome("ab", [[1.0, 1.0], [0.0, 0.0]]))
    assert curriculum.means == {"a": 0.75, "b": 0.0}
    found = curriculum.probabilities()
    assert found["b"] / found["a"] == pytest.approx(math.exp(0.75 / 0.5), rel=1e-12)
    assert found["c"] == found["b"]
    # Two more steps with a all wrong: half of 0.75, and half of 0; b keeps what it has.
    for _ in range(2):
        curriculum.learn(make_outcome("a", [[0.0, 0.0]]))
    assert curriculum.means == {"a": 0.375, "b": 0.0}
    # What reaches the target is worth the floor alone, as what is beyond it.
    curriculum.means = {"a": 1.0, "b": 2.0, "c": 1.0}
    assert curriculum.probabilities() == alike


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SEC(temperature=0.0), "temperature is 0.0"),
        (lambda: VerificationGap(rate=0.0), "VerificationGap .* rate 0.0"),
        (lambda: DUMP(window=0), "window is 0"),
        (lambda: Dads(decay=1.0), "decay 1.0"),
        (lambda: Dads(every_n_steps=0), "every_n_steps 0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Curriculum], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
