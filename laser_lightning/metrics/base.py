"""The base of this project's metrics: states that keep their dtype and synchronise from any rank."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from laser_lightning.shapes import Shaped


class ExactMetric(Metric):
    """A metric whose states no cast of the model can touch.

    ``Module.to(torch.bfloat16)``, which bf16-true precision applies to the whole LightningModule, also casts
    the states of a stock torchmetrics metric, and ``set_dtype`` casts even integers; both make its values
    silently wrong. Here such calls only move states between devices. Counts are int64 tensors that are summed
    over ranks; rows are lists that are concatenated over ranks, where a rank may hold no row at all.
    """

    full_state_update: bool | None = False
    is_differentiable: bool | None = False

    def __init__(self) -> None:
        super().__init__()
        self._list_dtypes: dict[str, torch.dtype] = {}

    def add_list(self, name: str, dtype: torch.dtype) -> None:
        """Add a list state of one-dimensional tensors, concatenated over ranks."""
        self._list_dtypes[name] = dtype
        self.add_state(name, default=[], dist_reduce_fx="cat")

    def add_count(self, name: str, size: tuple[int, ...] = ()) -> None:
        """Add an int64 state of the given shape, summed over ranks."""
        self.add_state(name, default=torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    def append(self, name: str, values: Shaped[Tensor, " N"]) -> None:
        """Append one batch ``values`` [N] to a list state, in its dtype and on the metric's device."""
        getattr(self, name).append(values.detach().to(device=self.device, dtype=self._list_dtypes[name]))

    def held(self, name: str) -> Shaped[Tensor, " N"]:
        """All rows of a list state, [N]; those of all ranks in ``compute`` and in ``gathered``."""
        state = getattr(self, name)
        if isinstance(state, Tensor):
            return state
        return torch.cat([torch.empty(0, dtype=self._list_dtypes[name], device=self.device), *state])

    @contextmanager
    def gathered(self) -> Generator[None, None, None]:
        """A context in which the states are those of all ranks, as in ``compute``; enter it on every rank."""
        self.sync(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync)
        try:
            yield
        finally:
            self.unsync(should_unsync=self._is_synced)

    def check_columns(self, **columns: Shaped[Tensor, "..."]) -> None:
        """Refuse columns that are not one-dimensional tensors of one length.

        Raises:
            ValueError: if the shapes differ or a column is not one-dimensional.
        """
        shapes = {name: tuple(column.shape) for name, column in columns.items()}
        if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
            listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(
                f"{type(self).__name__}.update needs 1-dimensional tensors of one length, but got {listed}. "
                "Pass one entry per sampled solution in each of them."
            )

    def check_integers(self, **columns: Shaped[Tensor, " N"]) -> None:
        """Refuse columns that are not of an integer dtype: a float cannot hold every int64 id.

        Raises:
            ValueError: if a column is floating point, complex or boolean.
        """
        for name, column in columns.items():
            if column.is_floating_point() or column.is_complex() or column.dtype == torch.bool:
                raise ValueError(
                    f"{type(self).__name__}.update needs integers in {name}, but got {column.dtype}: "
                    "pass an int64 tensor."
                )

    def check_numbers(self, **columns: Shaped[Tensor, " N"]) -> None:
        """Refuse columns that hold a NaN, which every comparison would silently count as incorrect.

        Raises:
            ValueError: if a column holds a NaN.
        """
        for name, column in columns.items():
            missing = column.isnan().nonzero()
            if len(missing):
                raise ValueError(
                    f"{type(self).__name__}.update got a NaN in {name} at position {missing[0].item()} "
                    f"({len(missing)} of {len(column)} entries): a NaN is neither correct nor incorrect; "
                    "find where the score or the reward became NaN, or leave those solutions out."
                )

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> torch.nn.Module:
        # `fn` decides on the device only. Casting and casting back would already have lost the digits.
        return super()._apply(lambda state: state.to(fn(state).device), exclude_state)

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # For a rank without rows torchmetrics gathers an empty float tensor, whatever the other ranks hold.
        for name in self._list_dtypes:
            setattr(self, name, [self.held(name)])
        super()._sync_dist(*args, **kwargs)
