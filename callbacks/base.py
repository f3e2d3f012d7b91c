"""What the callbacks that write into a run's directory share."""

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console, RenderableType
from tqdm import tqdm

from laser_lightning.data.module import data_module
from laser_lightning.distributed.files import write_on_first, write_together
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.modules.laser import LaSeRModule


class RunCallback(Callback):
    """A callback that writes into the run's directory.

    Attributes:
        run_directory: where this run's files are, from ``setup`` on.
    """

    run_directory: Path

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the run's directory: all processes must do so together, since it is agreed among them."""
        self.run_directory = Path(trainer.log_dir or trainer.default_root_dir)
        self.checkpoint_step: int | None = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember whose weights these are."""
        self.checkpoint_step = checkpoint["global_step"]

    def step(self, trainer: Trainer) -> int:
        """Number of optimizer steps behind the weights; outside ``fit`` only the checkpoint knows it."""
        if fits(trainer) or self.checkpoint_step is None:
            return trainer.global_step
        return self.checkpoint_step

    def write(self, trainer: Trainer, what: str, path: Path, write: Callable[[], Any]) -> None:
        """Let the first process write something; if it cannot, all end. All call it together.

        Args:
            trainer: whose processes these are.
            what: it is, as the subject of a sentence, such as ``The export``.
            path: its place.
            write: writes it.
        """
        write_on_first(Ranks(trainer.strategy), what, path, write)

    def write_own(self, trainer: Trainer, what: str, path: Path, write: Callable[[], Any]) -> None:
        """The same, where each process writes something of its own."""
        write_together(Ranks(trainer.strategy), what, path, write)

    def needs_laser_module(self, module: LightningModule, key: str) -> LaSeRModule:
        """The module as what it has to be.

        Args:
            module: the module that the trainer runs.
            key: config key that switches this callback off.

        Raises:
            UserError: if it has no solutions and self-rewards to show.
        """
        if isinstance(module, LaSeRModule):
            return module
        raise UserError(
            f"{type(self).__name__} works with LaSeRModule, and the model is {type(module).__name__}: "
            f"set `{key}: null`."
        )


def fits(trainer: Trainer) -> bool:
    """Whether this is ``fit``, its validations included, and not a stand-alone evaluation."""
    return trainer.state.fn == TrainerFn.FITTING


def finite(value: float) -> float | None:
    """The value as JSON and CSV can hold it: None for what is not finite."""
    return value if math.isfinite(value) else None


def values_by_set(trainer: Trainer, stage: str) -> dict[str, dict[str, float]]:
    """The latest evaluation's values by set, under the names that follow ``<stage>/<set>/``.

    Args:
        trainer: its ``callback_metrics`` are read.
        stage: ``val`` or ``test``.
    """
    metrics = trainer.callback_metrics
    sets: dict[str, dict[str, float]] = {}
    for name in data_module(trainer, "An evaluation").evaluation_problems:
        prefix = f"{stage}/{name}/"
        values = {key.removeprefix(prefix): float(metrics[key]) for key in metrics if key.startswith(prefix)}
        if values:
            sets[name] = values
    return sets


def file_name(name: str) -> str:
    """A set's name as part of a file's name: every character that is not a letter, a digit, . or - becomes _."""
    return re.sub(r"[^\w.-]", "_", name)


def show(*parts: RenderableType) -> None:
    """Print on the console, above a progress bar where there is one."""
    console = Console()
    with console.capture() as capture:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str), markup=False, highlight=False)
    tqdm.write(capture.get(), end="")
    sys.stdout.flush()  # a file is read while the run goes on
