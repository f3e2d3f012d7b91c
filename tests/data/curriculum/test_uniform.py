"""The default curriculum is the order of version 0.1."""

import random

import pytest

from laser_lightning.data import Curriculum, Draw, InOrder, UniformShuffling
from laser_lightning.data.problem import Problem


def problems(count: int) -> list[Problem]:
    return [Problem("train", i, f"p{i}", f"p{i}", [i], str(i)) for i in range(count)]


def choices(curriculum: Curriculum, draws: range, count: int, seed: int = 0) -> list[list[int]]:
    found = [curriculum.choose(Draw(number, count, 0, seed, random.Random())) for number in draws]
    return [list(chosen) for chosen in found]


def test_a_shuffled_epoch_is_python_s_shuffle_of_the_seed_and_the_epoch() -> None:
    # 7 problems in draws of 3: 2 draws an epoch; draw 3 is the second of epoch 1.
    curriculum = UniformShuffling()
    curriculum.begin(problems(7))
    order = list(range(7))
    random.Random("5/1").shuffle(order)
    assert choices(curriculum, range(3, 4), 3, seed=5) == [order[3:6]]
    # One draw of the first epoch, asked for again behind it, is the same: nothing is kept but for speed.
    order = list(range(7))
    random.Random("5/0").shuffle(order)
    assert choices(curriculum, range(0, 2), 3, seed=5) == [order[:3], order[3:6]]


@pytest.mark.parametrize("seed", [0, 1])
def test_in_order(seed: int) -> None:
    curriculum = InOrder()
    curriculum.begin(problems(7))
    assert choices(curriculum, range(4), 3, seed) == [[0, 1, 2], [3, 4, 5], [0, 1, 2], [3, 4, 5]]


def test_problems_that_fill_no_draw_are_repeated_in_new_orders() -> None:
    # 3 problems in draws of 4: the orders of the epochs one behind the other, and no problem more often than others.
    curriculum = UniformShuffling()
    curriculum.begin(problems(3))
    orders = []
    for epoch in range(4):
        order = list(range(3))
        random.Random(f"5/{epoch}").shuffle(order)
        orders += order
    assert choices(curriculum, range(3), 4, seed=5) == [orders[0:4], orders[4:8], orders[8:12]]
    assert choices(curriculum, range(1, 2), 4, seed=5) == [orders[4:8]], "whatever was asked before"


def test_neither_learns() -> None:
    assert not UniformShuffling().learns
    assert not InOrder().learns
    assert UniformShuffling().state_dict() == {}
