"""Where a run's metrics and its config go: into its own directory, and to the loggers that the user names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.utilities.logger import _flatten_dict
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from laser_lightning.distributed.files import write_on_first
from laser_lightning.distributed.ranks import Ranks
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


class MetricsWritten(Callback):
    """Ends the run on all processes where the first one cannot write the table of metrics.

    Args:
        file: writes it.
    """

    def __init__(self, file: MetricsFile) -> None:
        self.file = file
        file.tells_later = True

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """Ask before a step for the rows behind the one before."""
        self.tell(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for the table of the run that is resumed."""
        self.tell(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for the row of an evaluation."""
        self.tell(trainer)

    on_test_end = on_train_end = on_validation_end

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the last row."""
        self.tell(trainer)

    def tell(self, trainer: Trainer) -> None:
        """End the run, if a row could not be written."""
        write_on_first(Ranks(trainer.strategy), "The table of metrics", self.file.path, self.file.tell)


class RunConfig(SaveConfigCallback):
    """Writes the run's config into its directory, and hands it to every logger as its hyper-parameters."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the first process write; if it cannot, all end."""
        if not self.already_saved:
            directory = Path(trainer.log_dir or trainer.default_root_dir)  # agreed among the processes
            path = directory / self.config_filename

            def write() -> None:
                directory.mkdir(parents=True, exist_ok=True)
                path.touch()  # the parser has errors of its own for what the disk refuses
                self.parser.save(self.config, path, skip_unset=False, overwrite=True, multifile=self.multifile)
                self.save_config(trainer, pl_module, stage)

            write_on_first(Ranks(trainer.strategy), "The config", path, write)
            self.already_saved = True

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
