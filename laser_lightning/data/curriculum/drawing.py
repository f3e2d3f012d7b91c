"""Problems at random, and weights to choose among kinds by."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

_Kind = TypeVar("_Kind")


def draw_from(generator: random.Random, pool: Sequence[int], count: int) -> list[int]:
    """Draw problems at random, each once; a pool that is too small is taken whole, over and over.

    Args:
        generator: the randomness.
        pool: numbers of problems.
        count: how many.
    """
    whole, rest = divmod(count, len(pool))
    return [*pool] * whole + generator.sample(pool, rest)


def softmax(values: Mapping[_Kind, float], temperature: float) -> dict[_Kind, float]:
    """Probabilities in proportion to exp(value / temperature)."""
    highest = max(values.values())
    weights = {kind: math.exp((value - highest) / temperature) for kind, value in values.items()}
    total = sum(weights.values())
    return {kind: weight / total for kind, weight in weights.items()}
