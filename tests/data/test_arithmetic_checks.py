"""Rows that ask for a verdict: half right and half wrong, and the verdict is the solution's own."""

import random
from collections import Counter

import pytest

from laser_lightning.data.arithmetic import ArithmeticSource
from laser_lightning.data.arithmetic.checks import draw_check
from laser_lightning.data.arithmetic.countdown import Countdown, Step
from laser_lightning.data.arithmetic.kinds import drawer
from laser_lightning.errors import UserError


@pytest.mark.parametrize("kind", ["add1", "add3", "mul21", "mul22", "count3", "count4", "solve2"])
def test_the_verdict_is_that_of_the_last_result(kind: str) -> None:
    rng, verdicts = random.Random(0), Counter[str]()
    for _ in range(200):
        exercise = drawer(kind)(rng)
        question, verdict = draw_check(exercise, rng)
        assert question.startswith(f"{exercise.problem}=")
        result = question.removesuffix("?").replace("#", "=").rpartition("=")[2]
        wanted = exercise.problem.rpartition(">")[2] if ">" in exercise.problem else exercise.answer
        assert verdict == ("yes" if int(result) == int(wanted) else "no"), question
        verdicts[verdict] += 1
    assert 70 < verdicts["yes"] < 130, "100 +- 7"


def test_a_question_is_the_problem_and_a_solution() -> None:
    exercise = Countdown((3, 5, 7), (Step.of(7, "*", 3), Step.of(21, "+", 5)))
    questions = {draw_check(exercise, random.Random(seed)) for seed in range(20)}
    assert ("3,5,7>26=7*3=21;21+5=26?", "yes") in questions
    assert {verdict for _, verdict in questions} == {"yes", "no"}


def test_a_share_of_the_training_rows_are_checks() -> None:
    rows = ArithmeticSource(size=400, seed=1, kinds={"count3": 1.0}, checks=0.25).load().to_list()
    checks = [row for row in rows if row["solution"] in ("yes", "no")]
    assert 70 < len(checks) < 130, "100 +- 9"
    assert all(row["answer"] == row["solution"] and row["problem"].endswith("?") for row in checks)


def test_refusals() -> None:
    with pytest.raises(UserError, match=r"checks is 1\.5"):
        ArithmeticSource(checks=1.5)
    with pytest.raises(UserError, match="in the split 'val': only training rows"):
        ArithmeticSource("val", checks=0.1)
