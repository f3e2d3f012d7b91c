"""Export of the policy as a directory that transformers loads, with the self-reward's settings beside it."""

import math
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from laser_lightning.callbacks.base import RunCallback, fits
from laser_lightning.errors import UserError
from laser_lightning.modules.export import check_adapter, write_export
from laser_lightning.modules.model_card import evaluation_values, write_card
from laser_lightning.modules.training import TrainingModule


class HuggingFaceExport(RunCallback):
    """Writes the policy as a directory that ``transformers`` loads with ``from_pretrained``.

    ``<run>/<dirname>/best`` is replaced after each evaluation of ``fit`` that is better than all before, the one
    before the first step included; ``<run>/<dirname>/last`` is written behind the last step. Each holds the config,
    the generation config, the tokenizer with its chat template, the weights as safetensors, a model card, and
    ``self_reward.json`` (see ``SelfRewardSettings``), which a supervised run does not have. An export is written beside
    its place and put there by a rename, so a run that is killed never leaves half of one; in the moment between two
    renames the earlier export lies at ``.best.previous``.

    Args:
        dirname: name of the folder in the run's directory.
        monitor: metric that says which weights are best, such as ``val/arithmetic/pass@1``; null exports no best.
        mode: whether the best value of ``monitor`` is the largest (``max``) or the smallest (``min``).
        at_end: export the last weights.
        adapter: write LoRA's adapter in peft's form, in place of a plain model with the adapter merged in.
    """

    def __init__(
        self,
        dirname: str = "export",
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        at_end: bool = True,
        adapter: bool = False,
    ) -> None:
        if mode not in ("max", "min"):
            raise UserError(f"export.mode is '{mode}', and must be max or min.")
        if not dirname:
            raise UserError("export.dirname is empty: name the folder of the exports.")
        self.dirname, self.monitor, self.mode, self.at_end = dirname, monitor, mode, at_end
        self.adapter = adapter
        self.best_score: float | None = None
        self.best_path: str | None = None
        self._evaluated_step: int | None = None

    @property
    def directory(self) -> Path:
        """Where the exports are."""
        return self.run_directory / self.dirname

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without a policy."""
        super().setup(trainer, pl_module, stage)
        if not isinstance(pl_module, TrainingModule):
            raise UserError(
                f"HuggingFaceExport works with LaSeRModule and SupervisedModule, and the model is "
                f"{type(pl_module).__name__}: set `export: null`."
            )
        if self.adapter:
            check_adapter(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a model whose adapter could not be exported, where that is what will be."""
        if self.adapter:
            assert isinstance(pl_module, TrainingModule)
            pl_module.check_exports(adapter=True)

    def state_dict(self) -> dict[str, Any]:
        """The best score so far, of what, and where its export is."""
        return {
            "monitor": self.monitor,
            "mode": self.mode,
            "best_score": self.best_score,
            "best_path": self.best_path,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best score, if it is of the same metric."""
        if (state_dict["monitor"], state_dict["mode"]) == (self.monitor, self.mode):
            self.best_score, self.best_path = state_dict["best_score"], state_dict["best_path"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say where the best export of a resumed run is, if not here."""
        if self.best_path is not None and Path(self.best_path) != self.directory / "best":
            rank_zero_info(
                f"The best export so far ({self.monitor} = {self.best_score:.4g}) is in {self.best_path}; "
                f"{self.directory / 'best'} is written when a later evaluation is better."
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the weights if they are the best so far."""
        if trainer.sanity_checking or not fits(trainer):
            return
        self._evaluated_step = trainer.global_step
        if self.monitor is None:
            return
        score = self._score(trainer, self.monitor)
        # All ranks gather the weights or none does, so one of them decides.
        if trainer.strategy.broadcast(self._is_best(score)):
            self.best_score, self.best_path = score, str(self.directory / "best")
            self._export(trainer, pl_module, "best")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the last weights."""
        if self.at_end:
            self._export(trainer, pl_module, "last")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the card of the last weights again: their evaluation comes behind their export."""
        assert isinstance(pl_module, TrainingModule)
        metrics, directory = self._evaluation(trainer), self.directory / "last"
        if self.at_end and metrics:
            write = partial(write_card, pl_module, directory, trainer.global_step, self.adapter, metrics)
            self.write(trainer, "The card of", directory, lambda: directory.is_dir() and write())

    def _evaluation(self, trainer: Trainer) -> dict[str, float]:
        """The values of the evaluation of the present weights; none where there was none."""
        if self._evaluated_step != trainer.global_step:
            return {}
        return evaluation_values({name: float(value) for name, value in trainer.callback_metrics.items()})

    def _score(self, trainer: Trainer, monitor: str) -> float:
        metrics = trainer.callback_metrics
        if monitor not in metrics:
            known = sorted(name for name in metrics if name.startswith("val/")) or sorted(metrics)
            raise UserError(
                f"export.monitor is '{monitor}', which no evaluation logs. There are: {', '.join(known) or 'none'}."
            )
        return float(metrics[monitor])

    def _is_best(self, score: float) -> bool:
        if math.isnan(score):
            return False
        if self.best_score is None:
            return True
        return score > self.best_score if self.mode == "max" else score < self.best_score

    def _export(self, trainer: Trainer, module: LightningModule, name: str) -> None:
        assert isinstance(module, TrainingModule)
        weights, directory, metrics = policy_weights(module), self.directory / name, self._evaluation(trainer)
        write = partial(write_export, module, weights, directory, trainer.global_step, self.adapter, metrics)
        self.write(trainer, "The export", directory, write)


def policy_weights(module: TrainingModule) -> dict[str, Tensor]:
    """The policy's weights, whole, under the names of its transformers model; all ranks call it together."""
    return module.training_strategy.whole_weights(module.policy.lm)
