"""Problems with kinds, draws, and outcomes, for the tests of curricula."""

import random
from collections.abc import Callable

import pytest
import torch

from laser_lightning.data import Draw, Problem, StepOutcome


def problems_of(kinds: str) -> list[Problem]:
    """A problem for each letter, which is its kind; ``-`` for none."""
    named = [None if letter == "-" else letter for letter in kinds]
    return [Problem("train", 10 * i, f"p{i}", f"p{i}", [i], str(i), kind=kind) for i, kind in enumerate(named)]


def outcome_of(
    kinds: str,
    rewards: list[list[float]],
    advantages: list[list[float]] | None = None,
    self_rewards: list[list[float]] | None = None,
    problems: list[int] | None = None,
) -> StepOutcome:
    """The outcome of a step on problems of these kinds."""
    made = torch.tensor(rewards)
    return StepOutcome(
        1,
        list(range(len(kinds))) if problems is None else problems,
        [None if letter == "-" else letter for letter in kinds],
        made,
        made if self_rewards is None else torch.tensor(self_rewards),
        made if advantages is None else torch.tensor(advantages),
    )


@pytest.fixture
def make_problems() -> Callable[[str], list[Problem]]:
    """``make_problems("aab-")`` makes a problem for each letter."""
    return problems_of


@pytest.fixture
def make_outcome() -> Callable[..., StepOutcome]:
    """``make_outcome(kinds, rewards, advantages=..., self_rewards=..., problems=...)``."""
    return outcome_of


@pytest.fixture
def make_draw() -> Callable[..., Draw]:
    """``make_draw(count, number=0, step=0)`` with a generator of its own."""

    def make(count: int, number: int = 0, step: int = 0) -> Draw:
        return Draw(number, count, step, 0, random.Random(f"0/draw {number}"))

    return make
