"""Checkpoints on disk: files of Lightning, and directories of DeepSpeed with a shard per process."""

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from laser_lightning.errors import UserError

TAG = "checkpoint"
"""Name of the folder of shards within a DeepSpeed directory."""

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


def is_complete(path: Path) -> bool:
    """Whether a checkpoint was written to its end: DeepSpeed writes the file ``latest`` behind all shards."""
    return path.is_file() or (path / "latest").is_file()


def newest_complete(directory: Path) -> Path | None:
    """The checkpoint of a directory that was written last and is complete; the others are reported."""
    found = [path for path in directory.glob("*.ckpt") if not path.name.startswith(".")]
    times = {path: (path / "latest" if path.is_dir() and is_complete(path) else path).stat().st_mtime for path in found}
    for path in sorted(found, key=times.__getitem__, reverse=True):
        if is_complete(path):
            rank_zero_info(f"Resuming from {path}, the newest complete checkpoint.")
            return path
        rank_zero_warn(f"The checkpoint {path} was never finished (it has no file `latest`): it is passed over.")
    return None


def number_of_shards(directory: Path) -> int:
    """How many processes wrote a DeepSpeed directory."""
    return len(list((directory / TAG).glob("*_optim_states.pt")))


def client_state(directory: Path) -> dict[str, Any]:
    """What Lightning and the module saved in a DeepSpeed directory, without weights and optimizer."""
    _refuse_incomplete(directory)
    shards = sorted((directory / TAG).glob("*mp_rank_00_model_states.pt"))
    saved = torch.load(shards[0], map_location="cpu", weights_only=False, mmap=True)
    return {key: value for key, value in saved.items() if key not in ENGINE_KEYS}


def whole_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The module's state dict, without frozen parameters, from a file or from the shards of any number of processes."""
    if path.is_file():
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"])
    _refuse_incomplete(path)
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    state: dict[str, torch.Tensor] = get_fp32_state_dict_from_zero_checkpoint(
        str(path), tag=TAG, exclude_frozen_parameters=True
    )
    return state


def _refuse_incomplete(directory: Path) -> None:
    if not is_complete(directory):
        raise UserError(f"The checkpoint {directory} was never finished: it has no file `latest`. Take an earlier one.")


def put_in_place(directory: Path, target: Path) -> None:
    """Rename a finished directory to ``target``; the one there is removed behind it."""
    previous = target.with_name(f".{target.name}.previous")
    if previous.exists():  # of a run that was killed
        shutil.rmtree(previous)
    if target.exists():
        target.rename(previous)
    directory.rename(target)
    if previous.exists():
        shutil.rmtree(previous)
