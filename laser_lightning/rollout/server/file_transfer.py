"""Weights on their way to servers as files, in a directory that the trainer and the servers share."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

from safetensors import SafetensorError

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import WeightStream
from laser_lightning.rollout.server.client import RequestRefused, ServerFailed, VLLMClient
from laser_lightning.rollout.server.transfer import WeightTransfer, on_each, tell_missed
from laser_lightning.rollout.server.weights import give_weights, write_weights

KEYS = "engine.weights_directory (or engine.weight_transfer.directory)"
"""Where a user says where to."""


class FileTransfer(WeightTransfer):
    """Write weights into a directory, and have each server load them; one that was started again loads them anew.

    It works wherever servers do, and needs no vLLM in the trainer's environment.

    Args:
        directory: at the same path for rank 0 and all servers; of one run at a time, since what an earlier one left
            there is deleted. It needs room for two copies of the weights. null for a temporary one, which servers of
            the same machine see.
    """

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory
        self._root: Path | None = None
        self._sent: Path | None = None

    def send(self, weights: WeightStream, policy: Policy, version: str, servers: Sequence[VLLMClient]) -> str:
        """Write the weights, and have all servers load them (see ``WeightTransfer``)."""
        directory = self._begin(version)
        try:
            write_weights(weights, directory)
        except (OSError, SafetensorError) as error:  # such as a full disk
            raise UserError(
                f"Weights cannot be written to {directory} ({error}): give {KEYS} a directory with room for two "
                "copies of them."
            ) from error
        # Nobody waits for what is under way.
        found = on_each(servers, lambda server: give_weights(server, str(directory), version, "abort"))
        errors = [error for error in found if error is not None]
        if len(errors) == len(servers) and any(isinstance(error, ServerFailed | RequestRefused) for error in errors):
            raise UserError(
                f"No server has loaded the weights. {' '.join(map(str, errors))} Has it the policy's architecture, "
                f"and does it see {directory}, as {KEYS} says?"
            )
        tell_missed(errors)
        if self._sent is not None:
            shutil.rmtree(self._sent, ignore_errors=True)
        self._sent = directory
        return str(directory)

    def send_again(self, server: VLLMClient, version: str, receipt: str) -> None:
        """Have a server load the files that are there (see ``WeightTransfer``)."""
        give_weights(server, receipt, version, "keep")  # other ranks may draw on it just now

    def close(self) -> None:
        """Delete the weights that were sent; the servers go on, with those that they have."""
        if self._root is not None:
            of_this_run = self._root.glob("weights-*") if self.directory is not None else [self._root]
            for directory in of_this_run:
                shutil.rmtree(directory, ignore_errors=True)
        self._root = self._sent = None

    def _begin(self, version: str) -> Path:
        """An empty directory for the weights of a version."""
        try:
            if self._root is None:
                given = self.directory
                self._root = Path(mkdtemp(prefix="laser-weights-") if given is None else given).absolute()
                for left_over in self._root.glob("weights-*"):
                    shutil.rmtree(left_over)
            directory = self._root / f"weights-{version}"
            directory.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"Weights cannot be written: {error}. Change {KEYS}.") from error
        return directory
