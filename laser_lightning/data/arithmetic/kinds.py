"""The kinds of problems that the embedded task is made of, by name."""

import random
import re
from collections.abc import Callable
from typing import NamedTuple

from laser_lightning.data.arithmetic.additions import Addition
from laser_lightning.data.arithmetic.countdown import Countdown
from laser_lightning.data.arithmetic.equations import Equation
from laser_lightning.data.arithmetic.exercise import Exercise
from laser_lightning.data.arithmetic.products import Product
from laser_lightning.errors import UserError


class Kind(NamedTuple):
    """A family of problems: what the digits behind its name are, and how one is drawn by them."""

    digits: str
    draw: Callable[..., Exercise]
    example: str


KINDS = {
    "add": Kind("[1-9]", Addition.draw, "'add3' (two 3-digit numbers)"),
    "mul": Kind("[1-9][1-9]", Product.draw, "'mul21' (a 2-digit number times a 1-digit one)"),
    "count": Kind("[2-6]", Countdown.draw, "'count3' (countdown with three numbers)"),
    "solve": Kind("[1-9]", Equation.draw, "'solve2' (an equation whose unknown has two digits)"),
}


def drawer(name: str) -> Callable[[random.Random], Exercise]:
    """What draws problems of the kind of this name.

    Args:
        name: name of a family and its digits, such as ``add3``.

    Raises:
        UserError: if there is no such kind.
    """
    match = re.fullmatch(r"([a-z]+)(\d+)", name)
    kind = KINDS.get(match[1]) if match else None
    if match is None or kind is None or not re.fullmatch(kind.digits, match[2]):
        raise UserError(
            f"kinds has '{name}', which is not a kind of arithmetic problem: "
            f"write {', '.join(kind.example for kind in KINDS.values())}."
        )
    sizes = [int(digit) for digit in match[2]]
    return lambda rng: kind.draw(*sizes, rng)
