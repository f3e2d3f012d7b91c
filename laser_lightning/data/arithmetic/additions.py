"""Additions with their columns written out, which can be learned to perfection."""

import random
from typing import Self

from laser_lightning.data.arithmetic.exercise import TwoNumbers, draw_digits


def worked_addition(left: int, right: int, digit_noise: float, rng: random.Random) -> str:
    """Column addition, units first, then the sum after ``#``: ``7+5=12;4+8+1=13;#132``.

    Args:
        left: first summand.
        right: second summand.
        digit_noise: probability that a column's sum is written wrong. A wrong column is carried on
            consistently, as in a real slip.
        rng: source of the noise.
    """
    left_digits, right_digits = str(left)[::-1], str(right)[::-1]
    columns, digits, carry = [], "", 0
    for position in range(max(len(left_digits), len(right_digits))):
        terms = [int(text[position]) for text in (left_digits, right_digits) if position < len(text)]
        terms += [carry] if carry else []
        total = sum(terms)
        if rng.random() < digit_noise:
            total = (total + rng.randint(1, 19)) % 20
        columns.append("+".join(map(str, terms)) + f"={total};")
        digits, carry = str(total % 10) + digits, total // 10
    return "".join(columns) + "#" + str(int((str(carry) if carry else "") + digits))


class Addition(TwoNumbers):
    """The sum of two numbers of as many digits."""

    operator = "+"

    @classmethod
    def draw(cls, digits: int, rng: random.Random) -> Self:
        """Draw two numbers of so many digits."""
        return cls(draw_digits(digits, rng), draw_digits(digits, rng))

    @property
    def answer(self) -> str:
        """The sum."""
        return str(self.left + self.right)

    def solution(self, noise: float, rng: random.Random) -> str:
        """Write the columns out; ``noise`` is the probability of a slip in each."""
        return worked_addition(self.left, self.right, noise, rng)
