"""Where a run's metrics and its config go: into its own directory, and to the loggers that the user names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.logger import _flatten_dict
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from laser_lightning.runs.metrics_file import MetricsFile


def run_loggers(metrics: MetricsFile, directory: Path, given: Logger | Sequence[Logger] | bool | None) -> list[Logger]:
    """The loggers of a run: CSV in its directory, and beside it those that are given, or else TensorBoard.

    CSV comes first: the first logger names the trainer's directory.

    Args:
        metrics: writes the CSV.
        directory: of the run.
        given: ``trainer.logger``.
    """
    board = TensorBoardLogger(directory.parent, name="", version=directory.name, default_hp_metric=False)
    others: Sequence[Logger] = [board]
    if given is not None and not isinstance(given, bool):
        others = [given] if isinstance(given, Logger) else given
    return [metrics, *others]


class RunConfig(SaveConfigCallback):
    """Writes the run's config into its directory, and hands it to every logger as its hyper-parameters."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the config over; only the first process is asked to."""
        text = self.parser.dump(self.config, skip_unset=False, skip_validation=True)
        config = yaml.safe_load(text)
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                continue  # its directory has the config itself
            logger.log_hyperparams(_not_yet_in(logger, config) if isinstance(logger, MLFlowLogger) else config)
            if isinstance(logger, TensorBoardLogger):  # which shows hyper-parameters only beside one metric of a run
                logger.experiment.add_text("config", f"```yaml\n{text}\n```")


def sentence_of_logger(error: BaseException) -> str | None:
    """What an error of W&B or MLflow (no key, no server, a store that they do not take) tells the user.

    Args:
        error: of any kind; None is returned for those of others.
    """
    names = {"wandb": "W&B", "mlflow": "MLflow"}
    name = names.get(type(error).__module__.split(".")[0])
    return None if name is None else f"trainer.logger: {name} cannot log: {error}"


def _not_yet_in(logger: MLFlowLogger, config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config that a resumed run of MLflow, which keeps the first value of each parameter, takes."""
    known = logger.experiment.get_run(logger.run_id).data.params
    config = {name: str(value)[:250] for name, value in _flatten_dict(config).items()}
    if changed := sorted(name for name, value in config.items() if known.get(name, value) != value):
        rank_zero_warn(
            f"MLflow keeps the parameters of run {logger.run_id} as they were when it began; these are others now: "
            f"{', '.join(changed)}."
        )
    return {name: value for name, value in config.items() if name not in known}
