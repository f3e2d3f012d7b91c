"""What is kept of each row of a running batch moves together."""

import torch
from torch import Tensor

from laser_lightning.rollout.transformers.rows import Rows


def whole(rows: Rows) -> list[tuple[int, ...]]:
    columns: tuple[Tensor, ...] = (rows.slots, rows.prompt_lengths, rows.response_lengths, rows.cached_lengths)
    return list(zip(*(column.tolist() for column in (*columns, rows.live)), strict=True))


def test_rows_begin_grow_go_and_join_as_in_the_drawing() -> None:
    rows = Rows.begin(torch.tensor([0, 1]), torch.tensor([4, 2]))
    assert whole(rows) == [(0, 4, 0, 4, True), (1, 2, 0, 2, True)]
    rows.response_lengths = rows.response_lengths + 3
    assert rows.feed().tolist() == [7, 5]  # columns 0 to 6, and 2 to 6
    rows.live = torch.tensor([True, False])
    rows = rows.select(torch.tensor([0])).append(Rows.begin(torch.tensor([2]), torch.tensor([3])))
    assert whole(rows) == [(0, 4, 3, 7, True), (2, 3, 0, 3, True)]  # the new one in columns 4 to 6
    rows.response_lengths = rows.response_lengths + 2
    assert whole(rows) == [(0, 4, 5, 7, True), (2, 3, 2, 3, True)]  # drawn, but not in the cache yet
    rows.feed()
    rows = rows.select(torch.tensor([1]))
    assert whole(rows) == [(2, 3, 2, 5, True)]  # 5 columns are left
    assert len(rows) == 1


def test_a_batch_may_be_empty() -> None:
    rows = Rows.begin(*torch.empty(2, 0, dtype=torch.long))
    assert len(rows) == 0
    assert rows.live.dtype == torch.bool
    assert whole(rows.append(Rows.begin(torch.tensor([5]), torch.tensor([1])))) == [(5, 1, 0, 1, True)]
