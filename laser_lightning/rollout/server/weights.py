"""Weights of servers: how they change without a response that mixes them, and how they lie in a directory."""

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
    begin_change(client, under_way)
    try:
        client.reload_weights(directory)
    except ServerError:
        break_off_change(client)
        raise
    end_change(client, version)


def begin_change(client: VLLMClient, under_way: Literal["abort", "keep"]) -> None:
    """Pause a server, and label its weights as incomplete.

    Args:
        client: of the server.
        under_way: whether responses under way are dropped or go on behind the change.

    Raises:
        ServerError: if it fails. The server then generates again.
    """
    client.pause(under_way)
    try:
        client.set_weight_version(INCOMPLETE)
    except ServerError:
        break_off_change(client)
        raise


def end_change(client: VLLMClient, version: str) -> None:
    """Label a server's weights, all of which are there, and have it generate again.

    Args:
        client: of the server.
        version: the label.

    Raises:
        ServerError: if it fails. The server then generates again, but its label may not be that of the version.
    """
    try:
        # Where something is still in use this does nothing, and need not: requests bring the version as a salt.
        client.reset_prefix_cache()
        client.set_weight_version(version)
    except ServerError:
        break_off_change(client)
        raise
    client.resume()


def break_off_change(client: VLLMClient) -> None:
    """Have a server generate again, whose label says that its weights are incomplete; if it still answers."""
    with suppress(ServerError):
        client.resume()
