"""What of a curriculum a checkpoint can hold."""

from collections import Counter
from typing import Any

import pytest
import torch

from laser_lightning.data.curriculum.state import copied
from laser_lightning.errors import UserError


def test_a_copy_does_not_change_with_its_original() -> None:
    state: dict[str, Any] = {"means": {None: 0.5, "add": 1.0}, "counts": torch.zeros(2), "seen": [(1, True), "x"]}
    copy = copied(state, "the state")
    state["means"][None] = 9.0
    state["counts"] += 1
    state["seen"].append(2)
    assert copy["means"] == {None: 0.5, "add": 1.0}
    assert copy["counts"].tolist() == [0.0, 0.0]
    assert copy["seen"] == [(1, True), "x"]


@pytest.mark.parametrize("value", [Counter("aab"), {1, 2}, {"deep": [object()]}, {(1, 2): 0.5}, torch.zeros(1).numpy()])
def test_what_a_checkpoint_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(UserError, match=r"In the state is a \w+, which a checkpoint cannot hold"):
        copied(value, "the state")
