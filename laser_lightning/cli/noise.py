"""Messages of libraries that the command line leaves out, one by one and by their text: others are shown."""

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

LOG_MESSAGES = {
    "lightning.pytorch.utilities.rank_zero": (
        "💡 Tip: ",
        "Tip: For seamless cloud",
        "GPU available: False",  # nor is one to be used: with one that is idle, the line begins otherwise
        "TPU available: False",
        "Restoring states from the checkpoint",  # said again when it is done
        "`Trainer(val_check_interval=1",
        "-" * 100 + "\ndistributed_backend=",  # ConsoleProgress says how many processes there are
        "`Trainer.fit` stopped: `max_steps=",  # the run's end, and not a stop
    ),
    "lightning.pytorch.strategies.deepspeed": ("initializing deepspeed distributed: ",),
    "lightning.fabric.utilities.distributed": ("Initializing distributed: ",),
    "lightning.fabric.utilities.seed": ("Seed set to", "[rank: "),  # it is in the run's config.yaml
    # Of every process without a GPU whose export lets accelerate ask what a DeepSpeed engine is.
    "DeepSpeed": ("Setting accelerator to CPU",),
}
"""Beginnings of log messages, by the name of the logger."""

WARNINGS = (
    # What a checkpoint behind an optimizer step holds is what users expect of it.
    "Using ModelCheckpoint with manual optimization",
    # Said of a directory in use, although what it held was renamed.
    "Experiment logs directory .* exists and is not empty",
    # Said of every resumed run.
    "Checkpoint directory .* exists and is not empty",
    # Said of every evaluation in a directory of its own.
    "The dirpath has changed from",
    # torch's older releases have no other name for it.
    "`broadcast_buffers` is deprecated",
    # Lightning's own use of torch.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    r"torch\.distributed\.nn\.functional\.all_gather is deprecated",
    # MLflow's names have no @, as the page on watching a run says.
    "MLFlow only allows",
)
"""Beginnings of warnings, as regular expressions."""


class _WithoutKnown(logging.Filter):
    def __init__(self, beginnings: tuple[str, ...]) -> None:
        super().__init__()
        self.beginnings = beginnings

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.beginnings)


def leave_out_noise() -> None:
    """Leave out the known messages from here on, in this process."""
    for name, beginnings in LOG_MESSAGES.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _WithoutKnown) for known in logger.filters):
            logger.addFilter(_WithoutKnown(beginnings))
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def shorten_library_bars() -> None:
    """Let the bars of transformers and datasets (loading, writing) appear after a second, on terminals, and vanish."""
    import datasets
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_tqdm_hook(_short_lived)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


def _short_lived(make: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    on_terminals = True if options.get("disable") else None  # tqdm's None
    return make(*args, **(options | {"delay": 1.0, "leave": False, "disable": on_terminals}))
