"""The processes of a run, and what they agree on."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # the scorer does without Lightning
    from lightning.pytorch.strategies import Strategy


class Ranks:
    """The processes that train one model together, as sums, maxima and stacks of what each of them has.

    Every method is a collective operation: all ranks call it together. Without a strategy there is one rank, and each
    operation returns what it was given.

    Args:
        strategy: of the trainer; None for one process without a trainer.
        together: entered around each operation, by all ranks.
    """

    def __init__(
        self, strategy: "Strategy | None" = None, together: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self._strategy, self._together = strategy, together

    @property
    def count(self) -> int:
        """How many there are."""
        return 1 if self._strategy is None else int(self._strategy.world_size)  # type: ignore[attr-defined]

    @property
    def index(self) -> int:
        """Which one this is, from 0."""
        return 0 if self._strategy is None else int(self._strategy.global_rank)  # type: ignore[attr-defined]

    @property
    def together(self) -> int:
        """How many of them, one behind the other, compute each micro-batch together; see ``SequenceParts``."""
        return int(getattr(self._strategy, "together", 1))

    def sum(self, values: Tensor) -> Tensor:
        """Add up tensors of one shape; the sum is on the rank's device."""
        if self._strategy is None:
            return values
        with self._together():
            # A copy, since strategies reduce in place.
            total = self._strategy.reduce(self._placed(values).clone(), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total

    def max(self, number: int) -> int:
        """Find the largest of the ranks' numbers."""
        if self._strategy is None:
            return number
        with self._together():
            return int(self._strategy.reduce(torch.tensor(number, device=self._strategy.root_device), reduce_op="max"))

    def stack(self, values: Tensor) -> Tensor:
        """Stack tensors of one shape [...]: [ranks, ...], on the rank's device."""
        if self._strategy is None:
            return values[None]
        with self._together():
            gathered = self._strategy.all_gather(self._placed(values))
        return gathered.view(self.count, *values.shape)

    def _placed(self, values: Tensor) -> Tensor:
        """The values on the rank's device: NCCL moves nothing that lies in host memory."""
        assert self._strategy is not None
        return values.to(self._strategy.root_device)

    def gather(self, value: Any) -> list[Any]:
        """Gather plain values and tensors, of any size on each rank: those of all ranks, in their order."""
        if self.count == 1:
            return [value]
        gathered: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(gathered, value)
        return gathered
