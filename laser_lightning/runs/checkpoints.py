"""Checkpoints on disk: files of Lightning, and directories of DeepSpeed with a shard per process."""

import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from laser_lightning.errors import UserError
from laser_lightning.runs.saved_optimizer import NotCarriedError, SavedOptimizer, StateDicts, of_file, of_shards

TAG = "checkpoint"
"""Name of the folder of shards within a DeepSpeed directory."""

RANK = re.compile(r"_pp_rank_(\d+)_")
"""Number of the process that wrote a shard, in its name."""

ENGINE_KEYS = {
    "module",
    "optimizer",
    "lr_scheduler",
    "buffer_names",
    "param_shapes",
    "frozen_param_shapes",
    "ds_config",
}
"""What DeepSpeed saves beside the entries of Lightning and of the module."""


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint file beside its place, to the disk, and puts it there by a rename.

    Lightning's own writes into the system's temporary directory and moves: from one file system to another that is a
    copy, which a kill cuts in half. Remote paths (``s3://...``) are left to it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save, or leave what was there as it was.

        Raises:
            UserError: if the disk is full, or refuses for another reason.
        """
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        write_whole(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file, or what carries over from a directory of DeepSpeed."""
        if Path(path).is_dir():
            return self._of_directory(Path(path))
        return super().load_checkpoint(path, *args, **kwargs)

    def _of_directory(self, path: Path) -> dict[str, Any]:
        states: Sequence[dict[str, Any]] = []
        left = None
        try:
            states = StateDicts(saved_optimizer(path))
        except NotCarriedError as error:
            left = str(error)
        return carried_over(path, left) | {"state_dict": whole_state_dict(path), "optimizer_states": states}


def write_whole(target: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file to the disk beside its place, and rename it, or leave what was there as it was.

    Args:
        target: its place.
        write: writes the content into an open file.

    Raises:
        UserError: if the disk is full, or refuses for another reason.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except (OSError, RuntimeError) as error:  # torch's writer hides a full disk in a RuntimeError
        with suppress(OSError):  # of a place where there is no directory, say
            partial.unlink()
        raise not_saved(target, error) from error


def is_of_the_disk(error: Exception) -> bool:
    """Whether a write failed, and not a collective operation of many ranks that save together."""
    # torch's writer hides a full disk in a RuntimeError, and that of safetensors in an error of its own.
    hidden = ("inline_container", "iostream error", "(os error")
    return isinstance(error, OSError) or any(words in str(error) for words in hidden)


def free_gib(path: Path) -> float:
    """Room for a file, in GiB: on the disk of the nearest directory above it that exists."""
    place = next(one for one in path.absolute().parents if one.exists())
    return shutil.disk_usage(place).free / 2**30


def not_saved(target: Path, error: Exception) -> UserError:
    """What to say where a checkpoint could not be written."""
    cause = error if isinstance(error, OSError) else error.__context__ or error
    what = "a write failed" if "iostream error" in str(cause) else " ".join(str(cause).split())
    return UserError(
        f"The checkpoint {target} could not be saved: {what} ({free_gib(target):.3g} GiB are free there). Earlier "
        "checkpoints are as they were: see to the cause (make room, if the disk is full), and resume with --ckpt_path "
        "last."
    )


def checkpoint_directory(trainer: Trainer) -> Path:
    """Where a run saves: the directory of its first checkpoint callback, or ``checkpoints`` in the run's."""
    saver = next(iter(trainer.checkpoint_callbacks), None)
    given = getattr(saver, "dirpath", None)
    return Path(given or Path(trainer.default_root_dir) / "checkpoints")


def check_writable(directory: Path) -> None:
    """Refuse a directory in which this process cannot make files."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"a checkpoint")
    except OSError as error:
        raise UserError(
            f"Checkpoints cannot be written to {directory} ({error.strerror}): give another run_dir, or "
            "checkpoint.dirpath, or the right to write there."
        ) from error


def is_complete(path: Path) -> bool:
    """Whether a checkpoint was written to its end: DeepSpeed writes the file ``latest`` behind all shards.

    A file is complete once it has its name.
    """
    return path.is_file() or (path / "latest").is_file()


def newest_complete(directory: Path, quiet: bool = False) -> Path | None:
    """The checkpoint of a directory that was written last and is complete; it and incomplete ones are reported.

    Args:
        directory: where checkpoints are.
        quiet: report nothing.
    """
    found = [path for path in directory.glob("*.ckpt") if not path.name.startswith(".")]
    for waiting in directory.glob(".*.ckpt.previous"):  # a run was killed between two renames of `put_in_place`
        if not (directory / waiting.name[1:].removesuffix(".previous")).exists():
            found.append(waiting)
    # A link such as last.ckpt stands for another of them, or for none if the run was killed just before it was renewed.
    found = [path for path in found if not path.is_symlink()]
    times = {path: (path / "latest" if path.is_dir() and is_complete(path) else path).stat().st_mtime for path in found}
    for path in sorted(found, key=times.__getitem__, reverse=True):
        if is_complete(path):
            if not quiet:
                rank_zero_info(f"Resuming from {path}, the newest complete checkpoint.")
            return path
        if not quiet:
            rank_zero_warn(f"The checkpoint {path} was never finished (it has no file `latest`): it is passed over.")
    return None


class Writer(NamedTuple):
    """What wrote a DeepSpeed directory, and alone can take up its optimizer.

    Attributes:
        processes: their number.
        stage: of ZeRO.
    """

    processes: int
    stage: int


def writer(directory: Path) -> Writer:
    """What wrote a DeepSpeed directory."""
    shards = len(list((directory / TAG).glob("*_optim_states.pt")))
    return Writer(shards, _first_shard(directory)["ds_config"]["zero_optimization"]["stage"])


def client_state(directory: Path) -> dict[str, Any]:
    """What Lightning and the module saved in a DeepSpeed directory, without weights and optimizer."""
    return {key: value for key, value in _first_shard(directory).items() if key not in ENGINE_KEYS}


def _first_shard(directory: Path) -> dict[str, Any]:
    _refuse_incomplete(directory)
    shards = sorted((directory / TAG).glob("*mp_rank_00_model_states.pt"))
    return _read(shards[0], weights_only=False)


def saved_optimizer(path: Path, names: Sequence[Sequence[str]] = ()) -> SavedOptimizer:
    """The optimizer of a checkpoint, of which only what is used will be read.

    Args:
        path: file, or directory of DeepSpeed.
        names: of the parameters of each group of the optimizer, which files do not have.

    Raises:
        NotCarriedError: if it cannot be told apart by parameter.
        UserError: if the checkpoint is incomplete.
    """
    if path.is_file():
        return of_file(read_file(path), names)
    files = {int(RANK.search(file.name)[1]): file for file in (path / TAG).glob("*_optim_states.pt")}  # type: ignore[index]
    shards = [_read(files[rank], weights_only=False)["optimizer_state_dict"] for rank in sorted(files)]
    counted = shards[0]["partition_count"]
    if len(shards) != (expected := max(counted) if isinstance(counted, list) else counted):
        raise UserError(f"The checkpoint {path} was written by {expected} processes, and has shards of {len(shards)}.")
    first = _first_shard(path)
    if first["ds_config"]["zero_optimization"].get("round_robin_gradients"):
        raise NotCarriedError("it was written with zero_options.round_robin_gradients")
    return of_shards(shards, first["param_shapes"])


def carried_over(path: Path, left: str | None = None) -> dict[str, Any]:
    """What a run goes on with from a checkpoint of another number of processes or another strategy; says so.

    Args:
        path: file, or directory of DeepSpeed.
        left: why the optimizer's moments do not carry over; None if they do.

    Returns:
        What Lightning and the module saved, without weights and optimizer.
    """
    if path.is_dir():
        processes, stage = writer(path)
        wrote, saved = f"{processes} processes under ZeRO-{stage}", client_state(path)
        scales = _first_shard(path)["ds_config"].get("fp16", {}).get("enabled")
    else:
        wrote, saved = "one process or DDP", read_file(path)
        scales = "MixedPrecision" in saved
    moments = "" if left else " the optimizer's moments,"
    told = (
        f"The checkpoint {path} was written by {wrote}, and this run is another: weights,{moments} reference constant, "
        "step, schedule and position in the data carry over"
    )
    if left:
        told += f"; the optimizer's moments do not, since {left}, and the next steps are not those it would have taken"
    if scales:
        told += "; float16's loss scale starts anew"
    rank_zero_info(f"{told}.")
    return {key: value for key, value in saved.items() if key not in ("state_dict", "optimizer_states")}


def whole_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The module's state dict, without frozen parameters, from a file or from the shards of any number of processes."""
    if path.is_file():
        return dict(read_file(path)["state_dict"])
    _refuse_incomplete(path)
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    state: dict[str, torch.Tensor] = get_fp32_state_dict_from_zero_checkpoint(
        str(path), tag=TAG, exclude_frozen_parameters=True
    )
    return state


def read_file(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds; tensors are read when they are used.

    Raises:
        UserError: if it is incomplete, or no checkpoint.
    """
    return _read(path, weights_only=True)


def _read(path: Path, weights_only: bool) -> dict[str, Any]:
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=weights_only, mmap=True))
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a whole checkpoint, and cannot be read: {reason}") from error


def _refuse_incomplete(directory: Path) -> None:
    if not is_complete(directory):
        raise UserError(f"The checkpoint {directory} was never finished: it has no file `latest`. Take an earlier one.")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What Lightning and the module saved, with the whole ``state_dict``, from a file or a DeepSpeed directory.

    Raises:
        UserError: if it is incomplete, or no checkpoint.
    """
    if path.is_dir():
        return client_state(path) | {"state_dict": whole_state_dict(path)}
    return read_file(path)


def put_in_place(directory: Path, target: Path) -> None:
    """Rename a finished directory to ``target``, replacing the one there; a whole one exists at every moment.

    Args:
        directory: the new one, beside the target.
        target: its place; what is there now waits at ``.<name>.previous`` until the new one is in place.
    """
    previous = target.with_name(f".{target.name}.previous")
    if target.is_symlink():
        target.unlink()
    if target.exists():
        if previous.exists():
            shutil.rmtree(previous)
        target.rename(previous)
    directory.rename(target)
    if previous.exists():
        shutil.rmtree(previous)
