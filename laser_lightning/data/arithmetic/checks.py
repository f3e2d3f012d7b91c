"""Examples of checking: a problem with a solution, and whether it is right."""

import random
from typing import NamedTuple

from laser_lightning.data.arithmetic.exercise import Exercise

RIGHT, WRONG = "yes", "no"


class Check(NamedTuple):
    """A question with its answer.

    Attributes:
        question: such as ``3,5,7>26=7*3=21;21+5=26?``.
        verdict: ``yes`` or ``no``.
    """

    question: str
    verdict: str


def draw_check(exercise: Exercise, rng: random.Random) -> Check:
    """Draw a right or a wrong solution, each half of the time where there are wrong ones, and ask whether it is right.

    Args:
        exercise: the problem.
        rng: source of the choice and of the slips.
    """
    wrong = exercise.wrong_solution(rng) if rng.random() < 0.5 else None
    solution = exercise.solution(0.0, rng) if wrong is None else wrong
    return Check(f"{exercise.problem}={solution}?", RIGHT if wrong is None else WRONG)
