"""Settings and callbacks of Lightning that cannot work with modules that take their own steps: a sentence for each."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    SpikeDetection,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.plugins import BitsandbytesPrecision, DoublePrecision, Precision, TransformerEnginePrecision
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities import rank_zero_warn

from laser_lightning.errors import UserError

_MICRO_BATCHES = "data.prompts_per_step; model.update.micro_batch_tokens bounds the memory"

TRAINER_KEYS_INSTEAD: dict[str, tuple[Any, str]] = {
    "gradient_clip_val": (0, "model.optimizer.max_grad_norm, the largest norm of a gradient"),
    "gradient_clip_algorithm": (None, "model.optimizer.max_grad_norm, the largest norm of a gradient"),
    "accumulate_grad_batches": (1, _MICRO_BATCHES),
}
"""Lightning's keys that mean nothing to modules with steps of their own: the value that is none, and ours instead."""

CALLBACKS_INSTEAD: dict[type[Callback], str] = {
    GradientAccumulationScheduler: f"the module takes its own optimizer steps; give {_MICRO_BATCHES}",
    BatchSizeFinder: f"a step's size is part of the algorithm, not of the memory; give {_MICRO_BATCHES}",
    LearningRateFinder: "the loss of one step says little about a rate here; compare short runs with several "
    "model.optimizer.learning_rate",
    StochasticWeightAveraging: "it changes the schedule by epochs, and steps are counted here; EMAWeightAveraging and "
    "WeightAveraging average the weights",
    BaseFinetuning: "it freezes layers before the model is loaded; model.policy.lora trains adapters beside frozen "
    "weights",
    ModelPruning: "it puts masks in the place of weights, which no export could write; prune the exported model",
    SpikeDetection: "the module's steps return no loss; a step whose loss or gradient is not finite is skipped, and "
    "model.max_skipped_steps stops the run",
}
"""Lightning's callbacks that cannot work here: why, and what to do instead."""

PRECISIONS_INSTEAD: dict[type[Precision], str] = {
    DoublePrecision: "log-probs and scores are float32 here; give 32-true",
    TransformerEnginePrecision: "it replaces the model's layers, and unties head and embeddings; give bf16-mixed",
    BitsandbytesPrecision: "it replaces the model's layers by quantised ones, which do not learn; give bf16-mixed",
}
"""Lightning's plugins that cannot work here: why, and what to do instead."""


def check_trainer(trainer: Trainer) -> None:
    """Refuse what cannot work, before anything is loaded.

    Args:
        trainer: about to run a module that takes its own steps.

    Raises:
        UserError: naming the key, and what to give instead.
    """
    for key, (unset, instead) in TRAINER_KEYS_INSTEAD.items():
        if getattr(trainer, key) not in (None, unset):
            raise UserError(f"trainer.{key}: the module takes its own optimizer steps; give {instead}.")
    for precision, instead in PRECISIONS_INSTEAD.items():
        if isinstance(trainer.precision_plugin, precision):
            raise UserError(f"trainer.precision is {trainer.precision_plugin.precision}: {instead}.")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind, instead in CALLBACKS_INSTEAD.items():
            if isinstance(callback, kind):
                raise UserError(f"trainer.callbacks: {type(callback).__name__} does not work here: {instead}.")
        if isinstance(callback, WeightAveraging) and isinstance(trainer.strategy, DeepSpeedStrategy):
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} copies the whole model, and trainer.strategy is ZeRO, "
                "whose checkpoints would lack the average: use strategy/ddp, or leave the callback out."
            )
    if trainer.limit_train_batches == 0:
        rank_zero_warn("trainer.limit_train_batches is 0: nothing is trained.")
