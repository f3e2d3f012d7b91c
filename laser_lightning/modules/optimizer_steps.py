"""Optimizer steps by hand: micro-batches through the strategy, guarded steps, and the end of a run that fails."""

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from laser_lightning.distributed.files import finish_together
from laser_lightning.distributed.strategies import TrainingStrategy
from laser_lightning.errors import UserError
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.runs.interruption import Interruption


class OptimizerSteps(lightning.LightningModule):
    """A LightningModule that takes its optimizer steps itself, and skips those whose gradient is not finite.

    Attributes:
        optimizer_settings: how gradients change weights.
        max_skipped_steps: stop the run after this many steps in a row without a usable gradient.
        interruption: breaks off what may be broken off when the run is told to stop.
    """

    optimizer_settings: OptimizerSettings
    max_skipped_steps: int
    interruption: Interruption
    _skipped_in_a_row: int = 0

    @property
    def training_strategy(self) -> TrainingStrategy:
        """The strategy, or what stands for it in a module without a trainer."""
        raise NotImplementedError

    def micro_step(self, last: bool) -> AbstractContextManager[None]:
        """Around ``differentiable`` and ``backward_share`` of each micro-batch; all ranks have the same number."""
        return self.training_strategy.micro_step(last)

    def differentiable(self, *inputs: Any) -> Any:
        """``forward`` through the strategy's wrapper, which gradients must pass."""
        assert self.trainer.strategy.model is not None
        return self.trainer.strategy.model(*inputs)

    def backward_share(self, share: Tensor) -> None:
        """Add the gradients of a micro-batch's share of the step's loss.

        Strategies average gradients over ranks, and shares of one loss are to be added up. A share that is not finite
        makes the gradients NaN, and with them their sum on all ranks, so that all ranks skip the step.
        """
        self.manual_backward(share * torch.where(share.detach().isfinite(), self.trainer.world_size, torch.nan))

    def apply_gradients(self, loss: Tensor) -> float | None:
        """Clip the gradients and take one optimizer step, unless the loss or a gradient is not finite on any rank.

        Args:
            loss: scalar, this rank's share of the loss that was differentiated.

        Returns:
            The gradient norm before clipping, or None if the step was skipped.
        """
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        norm = self.step_weights(optimizer, loss)
        if norm is not None:
            self.log("train/learning_rate", optimizer.param_groups[0]["lr"])
            schedule = self.lr_schedulers()
            assert not isinstance(schedule, list | None)
            schedule.step()
        return norm

    def apply_uncounted(self, loss: Tensor, rate_factor: float) -> float | None:
        """Take a step that ``trainer.global_step`` does not count and the schedule does not see.

        It is a step of the same optimizer, with its states: under ZeRO there is room for one.

        Args:
            loss: as in ``apply_gradients``.
            rate_factor: times the learning rate of the moment.

        Returns:
            As ``apply_gradients``.
        """
        wrapped = self.optimizers()
        assert isinstance(wrapped, LightningOptimizer)
        # Lightning counts the steps of its own wrapper alone.
        optimizer = LightningOptimizer._to_lightning_optimizer(wrapped.optimizer, self.trainer.strategy)
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * rate_factor
        try:
            return self.step_weights(optimizer, loss)
        finally:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    def step_weights(self, optimizer: LightningOptimizer, loss: Tensor) -> float | None:
        """Clip the gradients and step, unless the loss or a gradient is not finite (see ``apply_gradients``)."""
        strategy = self.training_strategy
        scale = strategy.gradient_scale
        norm, stepped = strategy.step_if_finite(optimizer, self.optimizer_settings.max_grad_norm)
        if not stepped:
            total = float(self.trainer.strategy.reduce(loss, reduce_op="sum"))
            self._skip_unstepped(total, norm, scale, strategy.gradient_scale)
            return None
        self.interruption.hold()
        self._skipped_in_a_row = 0
        return norm

    def _skip_unstepped(self, loss: float, norm: float, scale: float | None, next_scale: float | None) -> None:
        """Skip a step whose loss or gradient is not finite, the same on all ranks."""
        # A loss scale begins too large on purpose, and is halved until it fits: 16 times from 65,536 to 1.
        searches = scale is not None and next_scale is not None and next_scale < scale and scale > 1
        if searches and math.isfinite(loss):
            self.skip_step(f"gradients overflow float16 at a loss scale of {scale:g}, now {next_scale:g}", counts=False)
        else:
            self.skip_step(f"the loss is {loss:.4g} and the gradient norm {norm:.4g}")

    def skip_step(self, reason: str, counts: bool = True) -> None:
        """Tell of a step that changed nothing; stop the run after too many in a row, with a checkpoint.

        Args:
            reason: why, as a part of a sentence.
            counts: whether it is one of those steps in a row.
        """
        step = self.trainer.global_step
        rank_zero_warn(f"Optimizer step {step} is skipped and no weight changed: {reason}.")
        if not counts:
            return
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= self.max_skipped_steps:
            self.stop(
                f"{self._skipped_in_a_row} optimizer steps in a row were skipped (max_skipped_steps), "
                f"the last one because {reason}"
            )

    def stop(self, why: str) -> NoReturn:
        """End the run with a checkpoint; all processes must call it together.

        Args:
            why: the reason, as a part of a sentence.
        """
        path = f"{self.trainer.default_root_dir if self.trainer.log_dir is None else self.trainer.log_dir}/stopped.ckpt"
        self.trainer.save_checkpoint(path)
        finish_together(self.trainer.strategy, Path(path).parent)
        raise UserError(f"Stopped: {why}. The last good state is in {path}.")
