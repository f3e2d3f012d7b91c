"""Products answered at once, which a small model gets right only sometimes."""

import random
from typing import Self

from laser_lightning.data.arithmetic.exercise import TwoNumbers, draw_digits


class Product(TwoNumbers):
    """The product of two numbers, without any working that could be checked."""

    operator = "*"

    @classmethod
    def draw(cls, first: int, second: int, rng: random.Random) -> Self:
        """Draw two numbers of so many digits."""
        return cls(draw_digits(first, rng), draw_digits(second, rng))

    @property
    def answer(self) -> str:
        """The product."""
        return str(self.left * self.right)

    def solution(self, noise: float, rng: random.Random) -> str:
        """The product behind ``#``: there is no column in which the teacher could slip."""
        return f"#{self.answer}"
