"""Countdown: reach a target from given numbers. Hard to find, easy to check."""

import random
from dataclasses import dataclass
from typing import NamedTuple, Self

from laser_lightning.data.arithmetic.exercise import Exercise

LARGEST_NUMBER = 20
LARGEST_RESULT = 99
_TRIES = (
    1000  # a draw that leads nowhere is drawn again; one in a thousand of three or four numbers leads nowhere twice
)


class Step(NamedTuple):
    """One calculation, such as ``7*3=21``."""

    left: int
    operator: str
    right: int
    result: int

    @classmethod
    def of(cls, left: int, operator: str, right: int) -> Self:
        """Calculate."""
        result = {"+": left + right, "-": left - right, "*": left * right}[operator]
        return cls(left, operator, right, result)

    def __str__(self) -> str:
        return f"{self.left}{self.operator}{self.right}={self.result}"


def draw_steps(numbers: tuple[int, ...], rng: random.Random) -> tuple[Step, ...]:
    """Combine numbers two by two, by random operators, until one is left.

    Args:
        numbers: what is combined, each once.
        rng: says which two, and how.

    Returns:
        The steps. All results lie between 1 and 99.
    """
    for _ in range(_TRIES):
        left, steps = list(numbers), []
        while len(left) > 1:
            rng.shuffle(left)
            step = Step.of(left.pop(), rng.choice("+-*"), left.pop())
            if not 1 <= step.result <= LARGEST_RESULT:
                break
            steps.append(step)
            left.append(step.result)
        else:
            return tuple(steps)
    raise ArithmeticError(f"No way was found to combine {numbers} with results from 1 to {LARGEST_RESULT}.")


@dataclass(frozen=True)
class Countdown(Exercise):
    """Numbers that are to be combined, each once, by ``+``, ``-`` and ``*``, so that the target comes out.

    Attributes:
        numbers: at least two, from 1 to 20.
        steps: one of the ways.
    """

    numbers: tuple[int, ...]
    steps: tuple[Step, ...]

    @classmethod
    def draw(cls, count: int, rng: random.Random) -> Self:
        """Draw ``count`` numbers and a way to combine them; where it ends is the target."""
        numbers = tuple(rng.randint(1, LARGEST_NUMBER) for _ in range(count))
        return cls(numbers, draw_steps(numbers, rng))

    @property
    def target(self) -> int:
        """What is to come out."""
        return self.steps[-1].result

    @property
    def problem(self) -> str:
        """For instance ``3,5,7>26``."""
        return ",".join(map(str, self.numbers)) + f">{self.target}"

    @property
    def answer(self) -> str:
        """The numbers in order and the target: whatever uses the ones to reach the other is right."""
        return ",".join(map(str, sorted(self.numbers))) + f">{self.target}"

    @property
    def ending(self) -> str:
        """The target as a result."""
        return f"={self.target}"

    @property
    def key(self) -> str:
        """The answer, which knows no order of the numbers."""
        return self.answer

    def solution(self, noise: float, rng: random.Random) -> str:
        """Write steps to the target, such as ``7*3=21;21+5=26``; by a slip they end elsewhere, though each is true."""
        steps = self.steps
        if rng.random() < noise:
            wrong = (draw_steps(self.numbers, rng) for _ in range(_TRIES))
            steps = next((other for other in wrong if other[-1].result != self.target), steps)
        return ";".join(map(str, steps))
