"""Weights from one process to another, a few layers at a time, through a file that both have open and nobody sees."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import torch
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from laser_lightning.policy.weight_stream import WeightStream, parts_of

AT_ONCE_BYTES = 2**26
"""Tensors are handed on when they have come to so many bytes: bounds the copies on both sides."""

_SHARED_MEMORY = Path("/dev/shm")


def open_shared_file() -> IO[bytes]:
    """A file without a name, in shared memory where the system has it: it is gone with the last process that has it
    open, however that ends."""
    return TemporaryFile(dir=_SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None)


def write_weights(weights: WeightStream, file: int) -> Iterator[tuple[int, bool]]:
    """Write a stream in parts; each takes the place of the one before, once the next is asked for.

    Args:
        weights: the stream.
        file: descriptor of the shared file.

    Yields:
        The bytes of a part, and whether it is the last one.
    """
    for part, is_last in parts_of(weights, AT_ONCE_BYTES):
        yield _write(part, file), is_last


def _write(part: dict[str, Tensor], file: int) -> int:
    content = memoryview(save(part))
    written = 0
    while written < len(content):
        written += os.pwrite(file, content[written:], written)
    return written


def read_weights(file: int, size: int) -> dict[str, Tensor]:
    """The part that ``write_weights`` wrote last.

    Args:
        file: descriptor of the shared file.
        size: bytes of the part.
    """
    parts: list[bytes] = []
    found = 0
    while found < size:
        parts.append(os.pread(file, size - found, found))
        found += len(parts[-1])
    return load(b"".join(parts))


class WeightCopy:
    """Copies the weights of a checkpoint into a model, part by part.

    Where the checkpoint of an architecture has the names of the model each part is copied as it comes. Elsewhere
    (mixtures whose experts are fused) all are held until the last, and transformers converts them.

    Args:
        lm: the model.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        self._lm = lm
        nothing: dict[str, Tensor] = {}
        self._has_own_names = revert_weight_conversion(lm, nothing) is nothing
        self._held: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self, part: dict[str, Tensor], is_last: bool) -> None:
        """Copy a part.

        Args:
            part: names in a checkpoint, and weights.
            is_last: whether these are the last ones.
        """
        if self._has_own_names:
            _copy(part, self._lm)
            return
        self._held |= part
        if is_last:
            held, self._held = self._held, {}
            converted = type(self._lm).from_pretrained(
                None, config=self._lm.config, state_dict=held, dtype=self._lm.dtype
            )
            _copy(converted.state_dict(), self._lm)


def _copy(weights: dict[str, Tensor], lm: PreTrainedModel) -> None:
    own = lm.state_dict()
    for name, value in weights.items():
        own[name].copy_(value)
