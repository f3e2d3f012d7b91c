"""The directory of a run: which checkpoint a start goes on from, and what happens to the files of an earlier one."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from laser_lightning.errors import UserError
from laser_lightning.runs.checkpoints import checkpoint_directory, client_state, newest_complete, read_file
from laser_lightning.runs.files import set_aside

CONFIG, METRICS = "config.yaml", "metrics.csv"
TRACES = (METRICS, "summary.json", "solutions", "export", "predictions", "evaluation")
"""What a run leaves in its directory once it has begun; a config alone is of one that failed before."""

NEWEST = ("last", "auto")
"""Values of ``ckpt_path`` that mean the newest complete checkpoint of the run's directory."""


def find_checkpoint(given: str | None, trainer: Trainer) -> str | None:
    """The checkpoint that a start of ``fit`` goes on from, if any.

    Args:
        given: ``ckpt_path``.
        trainer: says where checkpoints are.

    Raises:
        UserError: if it is ``last``, and there is none.
    """
    if given not in NEWEST:
        return given
    newest = newest_complete(checkpoint_directory(trainer))
    if newest is None and given == "last":
        raise UserError(
            f"ckpt_path: there is no complete checkpoint in {checkpoint_directory(trainer)}; --run_dir names the run "
            "whose last one it is, and --ckpt_path auto begins a run where there is none"
        )
    if newest is None:
        rank_zero_info("There is no complete checkpoint to resume from: the run starts from its beginning.")
    return None if newest is None else str(newest)


def refuse_mixing(directory: Path, trainer: Trainer, given: str | None, checkpoint: str | None) -> None:
    """Refuse a start that would mix its files with those of another run.

    Args:
        directory: of the run.
        trainer: says where checkpoints are.
        given: ``ckpt_path``.
        checkpoint: the one that the start goes on from, if any.

    Raises:
        UserError: naming what is there, and the remedies.
    """
    saves = checkpoint_directory(trainer)
    trace = next((path for name in TRACES if (path := directory / name).exists()), newest_complete(saves, quiet=True))
    if trace is None or given == "auto":
        return
    if checkpoint is None:
        raise UserError(
            f"run_dir: there is a run in {directory} already ({trace}): give --ckpt_path last to resume it, "
            "--ckpt_path auto to resume it or, if it has no checkpoint yet, to begin again, or another --run_dir"
        )
    path = Path(checkpoint).resolve()
    if not any(path.is_relative_to(place.resolve()) for place in (directory, saves)):
        raise UserError(
            f"run_dir: there is a run in {directory} already ({trace}), and {checkpoint} is not a checkpoint of it: "
            "give another --run_dir"
        )


def settings_in(checkpoint: str, key: str) -> Any:
    """An entry that the command line saved in a checkpoint; None if it has none."""
    path = Path(checkpoint)
    return (client_state(path) if path.is_dir() else read_file(path)).get(key)


class RunFiles(NamedTuple):
    """Where a start writes what it is, and what it measures.

    Attributes:
        config: the resolved config.
        metrics: the table of metrics.
    """

    config: Path
    metrics: Path


def run_files(directory: Path, command: str) -> RunFiles:
    """The files of a start in a directory: an evaluation in that of a training run has its own beside the run's.

    Args:
        directory: of the run; it need not exist.
        command: ``fit``, ``validate``, ``test`` or ``predict``.
    """
    config, metrics = directory / CONFIG, directory / METRICS
    if command == "fit" or not holds_training(directory):
        return RunFiles(config, metrics)
    return RunFiles(*(path.with_name(f"{path.stem}.{command}{path.suffix}") for path in (config, metrics)))


def keep_earlier_files(files: RunFiles, config: str, resumes: bool) -> None:
    """Rename what a start would overwrite: another config, and metrics that it does not continue.

    Args:
        files: of the start.
        config: its own, as YAML.
        resumes: whether it goes on from a checkpoint of this directory.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return
    changed = files.config.exists() and _read(files.config) != yaml.safe_load(config)
    for path in [files.config] * changed + [files.metrics] * (not resumes):
        if (kept := set_aside(path)) is not None:
            rank_zero_info(f"{path} of an earlier start is kept as {kept.name}")


def holds_training(directory: Path) -> bool:
    """Whether the config in a directory is of ``fit``; those of evaluations have an argument more."""
    saved = directory / CONFIG
    if not saved.exists():
        return False
    return not {"verbose", "return_predictions"} & _read(saved).keys()


def _read(config: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(config.read_text(encoding="utf-8")) or {})
