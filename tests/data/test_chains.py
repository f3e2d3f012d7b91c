"""Countdown and equations: every problem can be solved, every worked solution is true, slips miss the target."""

import random
import re
from collections import Counter

import pytest

from laser_lightning.data.arithmetic import ArithmeticSource
from laser_lightning.data.arithmetic.countdown import Countdown, Step, draw_steps
from laser_lightning.data.arithmetic.equations import Equation
from laser_lightning.verifiers import ArithmeticVerifier

KINDS = ["count2", "count3", "count4", "count6", "solve1", "solve2"]


def load(kind: str, size: int = 300, noise: float = 0.0, split: str = "train") -> list[dict[str, str]]:
    source = ArithmeticSource(split=split, size=size, kinds={kind: 1}, solution_noise=noise)  # type: ignore[arg-type]
    return source.load().to_list()


def numbers_of(problem: str) -> tuple[list[int], int]:
    left, target = problem.split(">")
    return [int(number) for number in re.findall(r"\d+", left)], int(target)


def test_a_countdown_by_hand() -> None:
    exercise = Countdown((3, 5, 7), (Step(7, "*", 3, 21), Step(21, "+", 5, 26)))
    assert (exercise.problem, exercise.answer) == ("3,5,7>26", "3,5,7>26")
    assert exercise.solution(0.0, random.Random(0)) == "7*3=21;21+5=26"
    swapped = Countdown((7, 3, 5), exercise.steps)
    assert swapped.problem == "7,3,5>26"
    assert (swapped.answer, swapped.split) == (exercise.answer, exercise.split)


def test_an_equation_by_hand() -> None:
    exercise = Equation(factor=7, unknown=9, summand=5)
    assert (exercise.problem, exercise.answer) == ("7*x+5>68", "5,7,9>68")  # 7 * 9 = 63, and 5 more
    assert exercise.solution(0.0, random.Random(0)) == "7*9=63;63+5=68"


@pytest.mark.parametrize("kind", KINDS)
def test_worked_solutions_are_right_and_slips_are_true_calculations_that_end_elsewhere(kind: str) -> None:
    verifier = ArithmeticVerifier()
    for row in load(kind):
        assert verifier.reward(row["solution"], row["answer"]) == 1.0
    right = 0
    for row in load(kind, noise=0.4):
        answer = verifier.canonical(row["solution"])
        reached = int(answer.rpartition(">")[2])  # an untrue step would have left the text as it is
        right += answer == row["answer"]
        assert (answer == row["answer"]) == (reached == numbers_of(row["problem"])[1])
    # 0.6 of 300, with a standard deviation of 8.5
    assert 150 < right < 210


def test_countdowns_use_each_number_once_and_stay_below_a_hundred() -> None:
    for row in load("count4", noise=0.5):
        numbers, target = numbers_of(row["problem"])
        assert len(numbers) == 4
        assert all(1 <= number <= 20 for number in numbers)
        assert 1 <= target <= 99
        steps = [tuple(map(int, re.findall(r"\d+", step))) for step in row["solution"].split(";")]
        assert len(steps) == 3
        assert all(1 <= result <= 99 for *_, result in steps)
        used = Counter(number for left, right, _ in steps for number in (left, right))
        used.subtract(result for *_, result in steps[:-1])
        assert +used == Counter(numbers)


def test_steps_of_numbers_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(ArithmeticError, match=r"No way was found to combine \(60, 60\)"):
        draw_steps((60, 60), random.Random(0))  # 120, 0 and 3600 are all out of bounds


@pytest.mark.parametrize("kind", ["count3", "solve2"])
def test_held_out_problems_are_not_in_training(kind: str) -> None:
    held_out = {row["answer"] for split in ("val", "test") for row in load(kind, 150, split=split)}
    assert len(held_out) > 200
    assert not held_out & {row["answer"] for row in load(kind, 4000)}
