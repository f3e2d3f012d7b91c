"""DDP for steps of several micro-batches."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from laser_lightning.distributed.direct_steps import DirectSteps
from laser_lightning.distributed.watchdog import WatchedStrategy, time_limit


class LaSeRDDPStrategy(DirectSteps, WatchedStrategy, DDPStrategy):
    """DDP whose gradients are averaged once per optimizer step, however many micro-batches it has.

    Args:
        collective_timeout_seconds: the run ends when a process waits longer than this for the others.
        kwargs: those of Lightning's DDPStrategy (``bucket_cap_mb``, ``process_group_backend``, ...).
    """

    def __init__(self, collective_timeout_seconds: float = 1800.0, **kwargs: Any) -> None:
        self.collective_timeout = time_limit(collective_timeout_seconds)
        # The only buffers are constants that all ranks agree on.
        super().__init__(broadcast_buffers=False, timeout=self.collective_timeout, **kwargs)

    def setup_distributed(self) -> None:
        """Join the process group."""
        super().setup_distributed()
        self.start_watchdog(self.collective_timeout)

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        """Forward and backward of one micro-batch; gradients travel with the last one."""
        assert isinstance(self.model, nn.parallel.DistributedDataParallel)
        with nullcontext() if last else self.model.no_sync():
            yield

    def pre_backward(self, closure_loss: Tensor) -> None:
        """Nothing: the wrapper's own forward pass has prepared the reduction."""
