"""What a run shows of itself while it goes on: a bar on terminals, lines in files, and a line for each evaluation."""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from tqdm import tqdm

from laser_lightning.callbacks.bar import StepBar
from laser_lightning.callbacks.base import fits, show, values_by_set
from laser_lightning.callbacks.names import number, row_order
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.training import TrainingModule

EVALUATED = {
    "pass@1": "pass@1",
    "self_verification/f1": "F1",
    "self_verification/auroc": "AUROC",
    "self_verification/auroc_within": "within problems",
    "response/length_tokens": "length",
    "loss": "loss",
}
"""What a line says of an evaluation, by the metric's name."""


class ConsoleProgress(ProgressBar):
    """Shows how far a run is: a bar such as ``step 37/200`` on a terminal, and lines where there is none.

    The bar says which part of the step is under way, too. A line such as ``step 37/200: reward 0.637, ...`` is printed
    at every ``trainer.log_every_n_steps``-th step if output goes into a file or a pipe, and one for each evaluated set
    everywhere. Of several processes the first one shows its progress. It is the command line's default unless
    ``trainer.callbacks`` has another progress bar; ``trainer.enable_progress_bar: false`` switches it off.

    Args:
        bar: draw the bar, on stderr; null where stderr is a terminal.
        lines: print a line of the steps, on stdout; null unless there is a bar and stdout is a terminal too.
    """

    def __init__(self, bar: bool | None = None, lines: bool | None = None) -> None:
        super().__init__()
        self.draws_bar = sys.stderr.isatty() if bar is None else bar
        self.prints_lines = not (self.draws_bar and sys.stdout.isatty()) if lines is None else lines
        self._is_enabled = True
        self._bar: StepBar | None = None
        self._total: int | None = None
        self._began: float | None = None

    def enable(self) -> None:
        """Show progress."""
        self._is_enabled = True

    def disable(self) -> None:
        """Show nothing."""
        self._close()
        self._is_enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._is_enabled:
            show(" ".join(str(arg) for arg in args))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen to the module, on the first process."""
        super().setup(trainer, pl_module, stage)
        if not trainer.is_global_zero:
            self.disable()
        if isinstance(pl_module, TrainingModule):
            pl_module.parts.progress.listener = self._show_part

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        self._close()
        if isinstance(pl_module, TrainingModule):
            pl_module.parts.progress.listener = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar as it is, so that the message stands below it."""
        self._close()

    # ---------------------------------------------------------------- training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is trained, and begin at the step that a resumed run has reached."""
        if not self._is_enabled:
            return
        self._total = last_step(trainer, pl_module)
        self._began, self._first = None, trainer.global_step
        goes_on = f", going on behind step {trainer.global_step}" if trainer.global_step else ""
        device = trainer.strategy.root_device
        where = f"{device}" if trainer.world_size == 1 else f"{trainer.world_size} processes ({device.type})"
        show(f"{describe_parameters(pl_module)} on {where}{goes_on}.")
        if self.draws_bar:
            self._bar = StepBar(self._counter(trainer), trainer.global_step, self._total)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the step and the time."""
        self._before, self._batch_began = trainer.global_step, time.perf_counter()
        self._began = self._began or self._batch_began  # behind an evaluation at the start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, and print a line where one is due."""
        if not self._is_enabled:
            return
        values = {name: value for name, value in trainer.progress_bar_metrics.items() if not name.startswith("val/")}
        text = ", ".join(f"{name.removeprefix('train/')} {_short(value)}" for name, value in values.items())
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        # A round may be several optimizer steps, or none when its step was skipped.
        is_due = trainer.global_step // every > self._before // every
        if self.prints_lines and (is_due or trainer.global_step == self._total != self._before):
            seconds = time.perf_counter() - self._batch_began
            parts = [text, f"{seconds:.1f} s", self._time_left(trainer.global_step)]
            show(f"{self._counter(trainer)}: {', '.join(part for part in parts if part)}")
        if self._bar is not None:
            self._bar.move(self._counter(trainer), trainer.global_step, text)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar: the last evaluation is over by now."""
        self._close()

    def _counter(self, trainer: Trainer) -> str:
        return f"step {trainer.global_step}" + ("" if self._total is None else f"/{self._total}")

    def _time_left(self, step: int) -> str:
        if self._total is None or self._began is None or step == self._first or step >= self._total:
            return ""
        seconds = (time.perf_counter() - self._began) / (step - self._first) * (self._total - step)
        return f"{tqdm.format_interval(seconds)} left"

    # -------------------------------------------------------------- evaluation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a bar for an evaluation that stands alone."""
        if self._is_enabled and not fits(trainer):
            self._total = sum(evaluation_batches(trainer))
            if self.draws_bar:
                self._bar = StepBar(f"batch 0/{self._total}", 0, self._total)

    on_test_start = on_validation_start
    on_predict_start = on_validation_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Move the bar of an evaluation that stands alone; within ``fit``, say how far it is."""
        if self._bar is None or trainer.sanity_checking:
            return
        batches = evaluation_batches(trainer)
        done = sum(batches[:dataloader_idx]) + batch_idx + 1
        if fits(trainer):
            self._bar.show_part(f"evaluation {done}/{sum(batches)}")
        else:
            self._bar.move(f"batch {done}/{self._total}", done)

    on_test_batch_end = on_validation_batch_end
    on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what was measured."""
        if self._is_enabled and not trainer.sanity_checking:
            self._print_evaluation(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print what was measured."""
        if self._is_enabled:
            self._print_evaluation(trainer, pl_module, "test")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def _show_part(self, text: str) -> None:
        if self._bar is not None:
            self._bar.show_part(text)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print_evaluation(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if not fits(trainer):
            self._close()
        step = int(trainer.callback_metrics.get("step", trainer.global_step))
        for name, values in values_by_set(trainer, stage).items():
            show(f"evaluation at step {step}, {stage}/{name}: {evaluation_line(values)}")


def last_step(trainer: Trainer, module: LightningModule) -> int | None:
    """The optimizer step at which the run ends, if it is known.

    Args:
        trainer: within ``fit``.
        module: says how many steps a batch is.
    """
    ends = [trainer.max_steps] if trainer.max_steps >= 0 else []
    epochs = trainer.max_epochs
    if epochs is not None and epochs >= 0 and math.isfinite(trainer.num_training_batches):
        steps = module.update.epochs * module.update.mini_batches if isinstance(module, LaSeRModule) else 1
        ends.append(epochs * int(trainer.num_training_batches) * steps)
    return min(ends, default=None)


def evaluation_batches(trainer: Trainer) -> list[int]:
    """The number of batches of each set in the evaluation that is under way.

    Args:
        trainer: within ``fit``, ``validate``, ``test`` or ``predict``.
    """
    counts = {TrainerFn.TESTING: trainer.num_test_batches, TrainerFn.PREDICTING: trainer.num_predict_batches}
    assert trainer.state.fn is not None
    return [int(count) for count in counts.get(trainer.state.fn, trainer.num_val_batches)]


def describe_parameters(module: nn.Module) -> str:
    """How many parameters there are, and how many of them are trained, as the beginning of a sentence.

    Args:
        module: maybe sharded by ZeRO-3, whose parameters remember their sizes.
    """
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in module.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
    return f"Training {f'{trained:,} of {total:,}' if trained < total else f'all {total:,}'} parameters"


def evaluation_line(values: Mapping[str, float]) -> str:
    """What was measured on a set, in a line.

    Args:
        values: by the name that follows ``<stage>/<set>/``.
    """
    shown = {EVALUATED[name]: (name, values[name]) for name in EVALUATED if name in values}
    if not shown:  # a module of other metrics
        shown = {name: (name, values[name]) for name in row_order(values)[: len(EVALUATED)]}
    return ", ".join(f"{label} {number(name, value)}" for label, (name, value) in shown.items())


def _short(value: Any) -> str:
    size = abs(float(value))
    return f"{float(value):.{0 if size >= 100 else 1 if size >= 10 else 3}f}"
