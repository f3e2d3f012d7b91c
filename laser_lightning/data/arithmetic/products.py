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

    def wrong_solution(self, rng: random.Random) -> str:
        """Another number behind ``#``, with one wrong digit."""
        place, digits = rng.randrange(len(self.answer)), list(self.answer)
        first = place == 0 and len(digits) > 1  # which is no 0
        digits[place] = rng.choice([d for d in "0123456789"[first:] if d != digits[place]])
        return "#" + "".join(digits)
