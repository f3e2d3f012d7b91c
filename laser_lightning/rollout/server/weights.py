"""Weights on their way to servers: as files in a directory that the trainer and the servers share."""

from contextlib import suppress
from pathlib import Path
from typing import Literal

from safetensors.torch import save_file

from laser_lightning.policy.weight_stream import WeightStream, parts_of
from laser_lightning.rollout.server.client import ServerError, VLLMClient

SHARD_BYTES = 1 << 30
"""Weights are held in memory until this much of them can be written at once."""
INCOMPLETE = "incomplete"
"""Label of weights while they change."""


def write_weights(weights: WeightStream, directory: Path) -> None:
    """Write a stream of weights as a checkpoint of safetensors, a shard at a time.

    Args:
        weights: to its end.
        directory: where it stands; the files are ``weights-00000.safetensors``, ...
    """
    for number, (part, _) in enumerate(parts_of(weights, SHARD_BYTES)):
        save_file(part, directory / f"weights-{number:05}.safetensors")


def give_weights(client: VLLMClient, directory: str, version: str, under_way: Literal["abort", "keep"]) -> None:
    """Have a server load weights, and label them. Until all of them are there its label says so.

    Args:
        client: of the server.
        directory: with the weights, at a path that the server sees.
        version: their label.
        under_way: whether responses under way are dropped or go on behind the change.

    Raises:
        ServerError: if it fails. The server then generates again, but its label is not that of the version.
    """
    client.pause(under_way)
    try:
        client.set_weight_version(INCOMPLETE)
        client.reload_weights(directory)
        # Where something is still in use this does nothing, and need not: requests bring the version as a salt.
        client.reset_prefix_cache()
        client.set_weight_version(version)
    except ServerError:
        with suppress(ServerError):
            client.resume()
        raise
    client.resume()
