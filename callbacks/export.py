"""Export of the policy as a directory that transformers loads, with the self-reward's settings beside it."""

import json
import math
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from laser_lightning.callbacks.base import RunCallback, fits
from laser_lightning.errors import UserError
from laser_lightning.module import LaSeRModule
from laser_lightning.policy_module import PolicyModule
from laser_lightning.self_reward import CORRECT_THRESHOLD
from laser_lightning.strategies import whole_weights

SETTINGS_FILE = "self_reward.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class SelfRewardSettings:
    """What it takes to compute an exported model's self-rewards: beta * (log pi(z_c) - reference_constant).

    log pi(z_c) is the reward token's log-softmax entry, at temperature 1, behind the response's ``<eos>``.

    Attributes:
        token: the reward token z_c.
        token_id: its id.
        beta: scale of the score.
        reference_constant: c_ref; None if the model was trained with ``reference: exact``, whose score takes
            log pi_ref(z_c) of each solution from the model that training started from.
        step: optimizer steps behind the weights.
        threshold: self-rewards above it are the verdict "correct".
        format_version: version of this file's form.
    """

    token: str
    token_id: int
    beta: float
    reference_constant: float | None
    step: int
    threshold: float = CORRECT_THRESHOLD
    format_version: int = FORMAT_VERSION

    @classmethod
    def of(cls, module: LaSeRModule, step: int) -> "SelfRewardSettings":
        """The settings of a module in training after ``step`` optimizer steps."""
        head = module.self_reward
        constant = None if head.is_exact else float(head.reference_constant)
        return cls(head.token, head.token_id, head.beta, constant, step)

    def save(self, directory: str | Path) -> None:
        """Write ``self_reward.json`` into a directory."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)
        (Path(directory) / SETTINGS_FILE).write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> "SelfRewardSettings":
        """Read ``self_reward.json`` from an exported directory.

        Args:
            directory: the export.
            tokenizer: the tokenizer that will be used; default: the export's own.

        Raises:
            UserError: if the file is missing or of another form, or the tokenizer does not have the reward token.
        """
        path = Path(directory) / SETTINGS_FILE
        if not path.is_file():
            raise UserError(
                f"{directory} has no {SETTINGS_FILE}: it is not an export of a model with self-rewards "
                "(HuggingFaceExport of a LaSeRModule writes one)."
            )
        values = json.loads(path.read_text(encoding="utf-8"))
        names = {field.name for field in fields(cls)}
        if values.get("format_version") != FORMAT_VERSION or set(values) != names:
            raise UserError(
                f"{path} is of format version {values.get('format_version')} with the keys {', '.join(values)}, and "
                f"this release reads version {FORMAT_VERSION} with the keys {', '.join(sorted(names))}."
            )
        settings = cls(**values)
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(directory)
        token_id = tokenizer.get_vocab().get(settings.token)
        if token_id != settings.token_id:
            found = "does not know it" if token_id is None else f"gives it the id {token_id}"
            raise UserError(
                f"The reward token '{settings.token}' of {path} has the id {settings.token_id}, but the tokenizer "
                f"{found}: use the tokenizer that was exported with the model."
            )
        return settings


class HuggingFaceExport(RunCallback):
    """Writes the policy as a directory that ``transformers`` loads with ``from_pretrained``.

    ``<run>/<dirname>/best`` is replaced after each evaluation of ``fit`` that is better than all before, the one
    before the first step included; ``<run>/<dirname>/last`` is written behind the last step. Each holds the config,
    the generation config, the tokenizer with its chat template, the weights as safetensors, and ``self_reward.json``
    (see ``SelfRewardSettings``), which a supervised run does not have. An export is written beside its place and put
    there by a rename, so a run that is killed never leaves half of one; in the moment between two renames the earlier
    export lies at ``.best.previous``.

    Args:
        dirname: name of the folder in the run's directory.
        monitor: metric that says which weights are best, such as ``val/arithmetic/pass@1``; null exports no best.
        mode: whether the best value of ``monitor`` is the largest (``max``) or the smallest (``min``).
        at_end: export the last weights.
    """

    def __init__(
        self,
        dirname: str = "export",
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        at_end: bool = True,
    ) -> None:
        if mode not in ("max", "min"):
            raise UserError(f"export.mode is '{mode}', and must be max or min.")
        if not dirname:
            raise UserError("export.dirname is empty: name the folder of the exports.")
        self.dirname, self.monitor, self.mode, self.at_end = dirname, monitor, mode, at_end
        self.best_score: float | None = None
        self.best_path: str | None = None

    @property
    def directory(self) -> Path:
        """Where the exports are."""
        return self.run_directory / self.dirname

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without a policy."""
        super().setup(trainer, pl_module, stage)
        if not isinstance(pl_module, PolicyModule):
            raise UserError(
                f"HuggingFaceExport works with LaSeRModule and SupervisedModule, and the model is "
                f"{type(pl_module).__name__}: set `export: null`."
            )

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
        if self.monitor is None or trainer.sanity_checking or not fits(trainer):
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
        assert isinstance(module, PolicyModule)
        weights = policy_weights(module)
        if trainer.is_global_zero:
            partial = self.directory / f".{name}.partial"
            if partial.exists():  # of a run that was killed
                shutil.rmtree(partial)
            partial.mkdir(parents=True)
            module.policy.lm.save_pretrained(partial, state_dict=weights)
            module.tokenizer.save_pretrained(partial)
            if isinstance(module, LaSeRModule):
                settings = SelfRewardSettings.of(module, trainer.global_step)
                settings.save(partial)
                if settings.reference_constant is None:
                    rank_zero_warn(
                        f"self_reward.reference is exact, so {name}/{SETTINGS_FILE} has no reference constant: "
                        "self-rewards of the exported model need the model that training started from."
                    )
            put_in_place(partial, self.directory / name)
        trainer.strategy.barrier("laser_lightning.export")


def policy_weights(module: PolicyModule) -> dict[str, Tensor]:
    """The policy's weights, whole, under the names of its transformers model; all ranks call it together."""
    return whole_weights(module.strategy, module.policy.lm)


def put_in_place(directory: Path, target: Path) -> None:
    """Rename a directory to ``target``, replacing the one there; a whole one exists at every moment.

    Args:
        directory: the new one, beside the target.
        target: its place; what is there now waits at ``.<name>.previous`` until the new one is in place.
    """
    previous = target.with_name(f".{target.name}.previous")
    if target.exists():
        if previous.exists():
            shutil.rmtree(previous)
        target.rename(previous)
    directory.rename(target)
    if previous.exists():
        shutil.rmtree(previous)
