"""Kinds of problems that metrics report apart, as the positions of their names."""

from collections.abc import Sequence

from torch import Tensor

from laser_lightning.shapes import Int


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuse names of kinds that are none, or not distinct.

    Raises:
        ValueError: if they are.
    """
    if not kinds or len(set(kinds)) < len(kinds):
        raise ValueError(f"kinds must name at least one kind and each only once, but is {list(kinds)}.")


def check_kind_ids(kind_ids: Int[Tensor, " N"], kinds: int) -> None:
    """Refuse ids that are no position among so many kinds.

    Args:
        kind_ids: [N], integers.
        kinds: number of kinds.

    Raises:
        ValueError: naming the first of them.
    """
    unknown = kind_ids[(kind_ids < 0) | (kind_ids >= kinds)]
    if len(unknown):
        raise ValueError(
            f"kind id {unknown[0].item()} is not in 0..{kinds - 1}: "
            "an id is the position of the kind in `kinds`; leave out problems without a kind."
        )
