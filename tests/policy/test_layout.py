"""Where tokens lie in a pass, and who sees whom, by hand."""

import pytest
import torch

from laser_lightning.policy.layout import lay_out
from laser_lightning.records.batching import MicroBatch

PAD = 9


@pytest.fixture
def batch() -> MicroBatch:
    """Two solutions of the prompt 1 2, and one of the prompt 3."""
    return MicroBatch(
        rows=torch.arange(3),
        input_ids=torch.tensor([[1, 2, 4, 5], [1, 2, 6, PAD], [3, 7, PAD, PAD]]),
        prompt_lengths=torch.tensor([2, 2, 1]),
        response_lengths=torch.tensor([2, 1, 1]),
        loss_mask=torch.ones(3, 2, dtype=torch.bool),
        trees=torch.tensor([0, 0, 1]),
    )


def seen(mask: torch.Tensor | None) -> list[list[list[int]]]:
    """The places that each place sees."""
    assert mask is not None
    return [[place.nonzero().flatten().tolist() for place in row[0]] for row in mask]


def test_trees_in_rows(batch: MicroBatch) -> None:
    layout = lay_out(batch, PAD, packed=False)
    assert layout.input_ids.tolist() == [[1, 2, 4, 5, 6], [3, 7, PAD, PAD, PAD]]
    assert layout.positions is not None
    assert layout.positions.tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    first, second = seen(layout.mask)
    assert first == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4]]
    assert second == [[0], [0, 1], [2], [2, 3], [2, 3, 4]]  # padding sees what nobody reads
    places = layout.places.tolist()
    assert places[0] == [0, 1, 2, 3]
    assert places[1][:3] == [0, 1, 4]
    assert places[2][:2] == [5, 6]


def test_packed_trees(batch: MicroBatch) -> None:
    layout = lay_out(batch, PAD, packed=True)
    assert layout.input_ids.tolist() == [[1, 2, 4, 5, 6, 3, 7]]
    assert layout.positions is not None
    assert layout.positions.tolist() == [[0, 1, 2, 3, 2, 0, 1]]
    assert seen(layout.mask) == [[[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [5], [5, 6]]]
    assert layout.places.tolist()[2][:2] == [5, 6]


def test_each_alone(batch: MicroBatch) -> None:
    batch.trees = None
    padded, packed = (lay_out(batch, PAD, packed) for packed in (False, True))
    assert padded.input_ids is batch.input_ids
    assert (padded.positions, padded.mask, packed.mask) == (None, None, None)
    assert padded.places.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert packed.input_ids.tolist() == [[1, 2, 4, 5, 1, 2, 6, 3, 7]]
    assert packed.positions is not None
    assert packed.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1]]
    assert [places[0] for places in packed.places.tolist()] == [0, 4, 7]
