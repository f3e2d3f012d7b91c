"""Steps of a LightningModule that are no forward pass of the wrapper around it."""

from contextlib import AbstractContextManager
from typing import Any

from lightning.pytorch.strategies import Strategy

from laser_lightning.distributed.training_strategy import TrainingStrategy


class DirectSteps(Strategy, TrainingStrategy):
    """Runs the LightningModule's steps on the module itself.

    Lightning would run them as a forward pass of DDP or of the DeepSpeed engine, and the passes of the micro-batches
    inside of that one.
    """

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._step("training_step", self.precision_plugin.train_step_context(), *args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._step("validation_step", self.precision_plugin.val_step_context(), *args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._step("test_step", self.precision_plugin.test_step_context(), *args, **kwargs)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._step("predict_step", self.precision_plugin.predict_step_context(), *args, **kwargs)

    def _step(self, name: str, precision: AbstractContextManager[None], *args: Any, **kwargs: Any) -> Any:
        with precision:
            return getattr(self.lightning_module, name)(*args, **kwargs)
