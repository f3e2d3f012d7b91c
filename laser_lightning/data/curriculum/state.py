"""A curriculum's state, fit for a checkpoint."""

from typing import Any

from torch import Tensor

from laser_lightning.data.curriculum.curriculum import Curriculum
from laser_lightning.errors import UserError

_PLAIN = (type(None), bool, int, float, str)


def saved_state(curriculum: Curriculum) -> dict[str, Any]:
    """A copy of a curriculum's state, which later steps do not change.

    Raises:
        UserError: it holds what a checkpoint cannot: it is read without running code.
    """
    return copied(curriculum.state_dict(), f"the state of {type(curriculum).__name__} (data.curriculum)")


def copied(value: Any, what: str) -> Any:
    """A copy of plain values and tensors.

    Args:
        value: the values.
        what: name for the message.

    Raises:
        UserError: it holds something else.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(copied(item, what) for item in value)
    if type(value) is dict and all(type(key) in _PLAIN for key in value):
        return {key: copied(item, what) for key, item in value.items()}
    raise UserError(
        f"In {what} is a {type(value).__name__}, which a checkpoint cannot hold: let state_dict return numbers, texts, "
        "tensors, and lists and mappings of them."
    )
