"""Linear equations, solved by a guess that is then tried: the last result says whether it was right."""

import random
from dataclasses import dataclass
from typing import Self

from laser_lightning.data.arithmetic.countdown import Step
from laser_lightning.data.arithmetic.exercise import Exercise, draw_digits

_FARTHEST = 5  # a slip is a guess so near to the unknown


@dataclass(frozen=True)
class Equation(Exercise):
    """``factor * x + summand = value``, with whole numbers."""

    factor: int
    unknown: int
    summand: int

    @classmethod
    def draw(cls, digits: int, rng: random.Random) -> Self:
        """Draw an equation whose unknown has so many digits."""
        return cls(rng.randint(2, 9), max(draw_digits(digits, rng), 1), rng.randint(1, 99))

    def steps(self, guess: int) -> tuple[Step, Step]:
        """Put a guess into the equation."""
        product = Step.of(self.factor, "*", guess)
        return product, Step.of(product.result, "+", self.summand)

    @property
    def value(self) -> int:
        """The right-hand side."""
        return self.steps(self.unknown)[-1].result

    @property
    def problem(self) -> str:
        """For instance ``7*x+5>54``."""
        return f"{self.factor}*x+{self.summand}>{self.value}"

    @property
    def answer(self) -> str:
        """The numbers that are calculated with, in order, and the right-hand side."""
        return ",".join(map(str, sorted((self.factor, self.unknown, self.summand)))) + f">{self.value}"

    @property
    def ending(self) -> str:
        """The right-hand side as a result."""
        return f"={self.value}"

    @property
    def key(self) -> str:
        """The problem."""
        return self.problem

    def solution(self, noise: float, rng: random.Random) -> str:
        """Try the unknown, such as ``7*7=49;49+5=54``; a slip is another guess, truly calculated."""
        guess = self.unknown
        if rng.random() < noise:
            guesses = range(max(1, self.unknown - _FARTHEST), self.unknown + _FARTHEST + 1)
            guess = rng.choice([other for other in guesses if other != self.unknown])
        return ";".join(map(str, self.steps(guess)))
