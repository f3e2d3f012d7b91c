"""Work with files that fails on all processes of a run, and not on the one that does it alone."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.strategies import Strategy

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.runs.background import finish_writing
from laser_lightning.runs.checkpoints import free_gib, is_of_the_disk


def write_together(ranks: Ranks, what: str, path: Path, write: Callable[[], Any], done: str = "written") -> None:
    """Let each rank write something, and end the run on all of them where one cannot.

    A rank that raised alone would leave the others waiting for it in their next collective operation. All ranks call
    it together, and leave it when all have written; within ``write`` none waits for another.

    Args:
        ranks: the processes of the run.
        what: it is, as the subject of a sentence, such as ``The export``.
        path: its place.
        write: writes it.
        done: what ``write`` does, in the passive voice.

    Raises:
        UserError: on all ranks, in the same words, if the disk is full, or refuses for another reason, on any.
    """
    error: Exception | None = None
    try:
        write()
    except Exception as found:
        error = found
    if ranks.max(int(error is not None)) == 0:
        return
    told = ranks.gather(None if error is None else _sentence(what, path, error, done))
    if error is not None and not _is_told(error):
        raise error  # a defect, whose traceback says more
    raise UserError(next(sentence for sentence in told if sentence is not None)) from error


def write_on_first(ranks: Ranks, what: str, path: Path, write: Callable[[], Any], done: str = "written") -> None:
    """Let the first rank write something, and end the run on all of them where it cannot (see ``write_together``)."""
    write_together(ranks, what, path, write if ranks.index == 0 else _nothing, done)


def finish_together(strategy: Strategy, directory: Path) -> None:
    """Wait until the last checkpoint is on the disk, where files are written in the background; all end if it is not.

    Args:
        strategy: of the run.
        directory: of the checkpoints.
    """
    write_on_first(Ranks(strategy), "A checkpoint in", directory, partial(finish_writing, strategy.checkpoint_io))


def _nothing() -> None:
    pass


def _is_told(error: Exception) -> bool:
    """Whether an error is one for the user, whom a sentence helps more than a traceback."""
    return isinstance(error, UserError) or is_of_the_disk(error)


def _sentence(what: str, path: Path, error: Exception, done: str) -> str:
    if isinstance(error, UserError):
        return str(error)
    said = " ".join(str(error).split())
    if not _is_told(error):
        return f"{what} {path} could not be {done} by another process: {type(error).__name__}: {said}"
    return (
        f"{what} {path} could not be {done}: {said} ({free_gib(path):.3g} GiB are free there). See to the cause "
        "(make room, if the disk is full), and give the command again; a training run goes on with --ckpt_path last."
    )
