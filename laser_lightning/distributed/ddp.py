"""DDP for steps of several micro-batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from laser_lightning.distributed.direct_steps import DirectSteps
from laser_lightning.distributed.files import write_on_first
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.distributed.reached import ReachedParameters
from laser_lightning.distributed.watchdog import WatchedStrategy, time_limit
from laser_lightning.errors import UserError


class LaSeRDDPStrategy(DirectSteps, WatchedStrategy, DDPStrategy):
    """DDP whose gradients are averaged once per optimizer step, however many micro-batches it has.

    Args:
        collective_timeout_seconds: the run ends when a process waits longer than this for the others.
        kwargs: those of Lightning's DDPStrategy (``bucket_cap_mb``, ``process_group_backend``, ...).
            ``find_unused_parameters`` changes nothing: what gets no gradient is found in every step.
    """

    def __init__(self, collective_timeout_seconds: float = 1800.0, **kwargs: Any) -> None:
        if kwargs.get("static_graph"):
            raise UserError(
                "trainer.strategy.init_args.static_graph: the micro-batches of a step reach different parameters "
                "(experts, phases of the loss), and DDP would wait for those of the first one: leave it out."
            )
        kwargs.pop("find_unused_parameters", None)
        self.collective_timeout = time_limit(collective_timeout_seconds)
        # The only buffers are constants that all ranks agree on.
        super().__init__(broadcast_buffers=False, timeout=self.collective_timeout, **kwargs)

    def setup_distributed(self) -> None:
        """Join the process group."""
        super().setup_distributed()
        self.start_watchdog(self.collective_timeout)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Let the first process write the file; if it cannot, all end."""
        write = partial(DDPStrategy.save_checkpoint, self, checkpoint, filepath, storage_options)
        with self.part("checkpoint"):
            write_on_first(Ranks(self), "The checkpoint", Path(filepath), write)

    def configure_ddp(self) -> None:
        """Wrap the module, and look which parameters its passes reach."""
        super().configure_ddp()
        assert self.lightning_module is not None
        self._reached = ReachedParameters(self.lightning_module.named_parameters())

    @contextmanager
    def micro_step(self, last: bool) -> Iterator[None]:
        """Forward and backward of one micro-batch; gradients travel with the last one."""
        assert isinstance(self.model, nn.parallel.DistributedDataParallel)
        if not last:
            with self.model.no_sync():
                yield
            return
        self._reached.begin_pass()
        yield
        self._reached.complete_pass()

    def pre_backward(self, closure_loss: Tensor) -> None:
        """Nothing: the wrapper's own forward pass has prepared the reduction."""
