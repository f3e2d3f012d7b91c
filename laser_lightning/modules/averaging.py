"""What Lightning's WeightAveraging needs to be exact beside frozen weights, which no checkpoint holds."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

Average = Callable[[Tensor, Tensor, Any], Tensor]


class ExactWhereEqual:
    """A mean of an average and a new value that is the value itself where both are the same.

    Rounding would move the frozen weights of the average a little in every step (0.9 x + 0.1 x is not x), and a resumed
    run, which loads them as the first one did, would be another.

    Args:
        average: the mean of all else, such as ``get_ema_avg_fn(0.999)``.
    """

    def __init__(self, average: Average) -> None:
        self.average = average

    def __call__(self, averaged: Tensor, current: Tensor, number: Any) -> Tensor:
        """The new average.

        Args:
            averaged: the one so far.
            current: the new value, of the same shape.
            number: how many values the former is of.
        """
        return torch.where(averaged == current, averaged, self.average(averaged, current, number))


def averaging(trainer: Trainer) -> list[WeightAveraging]:
    """The callbacks that average weights."""
    return [one for one in trainer.callbacks if isinstance(one, WeightAveraging)]  # type: ignore[attr-defined]


class Exchange:
    """Puts the average in the place of the weights and back, and knows which is where.

    At the end of a run Lightning would copy the average over the weights, and a checkpoint that is saved behind it
    would resume from the average. Here both are kept, each in the place of the other.

    Args:
        callback: whose ways of exchanging it takes the place of.
    """

    def __init__(self, callback: WeightAveraging) -> None:
        self.callback, self.exchanged, self._ended = callback, False, False
        callback._swap_models, callback._copy_average_to_current = self, self.end  # type: ignore[method-assign]

    def __call__(self, pl_module: LightningModule) -> None:
        """Exchange them; at the end of the run they are already."""
        if not self._ended:
            WeightAveraging._swap_models(self.callback, pl_module)
            self.exchanged = not self.exchanged

    def end(self, pl_module: LightningModule) -> None:
        """Exchange them for good."""
        self(pl_module)
        self._ended = True


def average_exactly(trainer: Trainer) -> list[Exchange]:
    """Let frozen weights stay what they are in every average; before the callbacks are set up.

    Returns:
        Where the weights of the run are, for each average.
    """
    for callback in averaging(trainer):
        average = callback._kwargs.get("avg_fn")
        if average is not None and not isinstance(average, ExactWhereEqual):
            callback._kwargs["avg_fn"] = ExactWhereEqual(average)
    return [Exchange(callback) for callback in averaging(trainer)]


def of_averages(trainer: Trainer, name: str) -> list[nn.Module]:
    """The copies that hold the averages of a part of the module.

    Args:
        trainer: of a run under way.
        name: of the part, such as ``self_reward``.
    """
    models = [callback._average_model for callback in averaging(trainer)]
    return [getattr(model.module, name) for model in models if model is not None]


def let_left_out_weights_be_missing(module: Any, keys: Any) -> None:
    """A hook behind ``load_state_dict``: what checkpoints leave out on purpose is not missed in them, by whoever loads
    them. The copy that holds an average is loaded as ``module``.

    Args:
        module: a TrainingModule.
        keys: those that were missing or unexpected; changed in place.
    """
    if not keys.missing_keys:
        return
    state = module.state_dict()
    left_out = state.keys() - module.saved_weights(state).keys()
    keys.missing_keys[:] = [key for key in keys.missing_keys if key.removeprefix("module.") not in left_out]
