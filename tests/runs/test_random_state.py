"""Draws after a restore equal those after the save, from every source of randomness."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from laser_lightning.runs.random_state import random_state, restore_random_state


@pytest.fixture(autouse=True)
def _leave_the_process_as_it_was() -> Iterator[None]:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])


def draw(generator: torch.Generator) -> list[float]:
    """Draws of every source; the normal ones come in pairs, of which the second is kept for the next call."""
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.standard_normal(),
        float(torch.rand(())),
        float(torch.randn(())),
        float(torch.rand((), generator=generator)),
        float(torch.randn((), generator=generator)),
    ]


@pytest.mark.parametrize("draws_before", [0, 1, 2, 7])
def test_draws_repeat_after_a_restore(draws_before: int) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(draws_before):
        draw(generator)
    state = random_state(generator)
    first = [draw(generator) for _ in range(3)]
    assert first != [draw(generator) for _ in range(3)]
    restore_random_state(state, generator)
    assert [draw(generator) for _ in range(3)] == first


def test_the_state_survives_a_checkpoint_read_without_pickled_code(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    draw(generator)
    torch.save(random_state(generator), tmp_path / "state.pt")
    first = draw(generator)
    fresh = torch.Generator()
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True), fresh)
    assert draw(fresh) == first


def test_a_saved_state_does_not_move_with_the_generators() -> None:
    generator = torch.Generator().manual_seed(3)
    state = random_state(generator)
    first = draw(generator)
    for _ in range(2):  # restoring must not use the state up either
        restore_random_state(state, generator)
        assert draw(generator) == first
