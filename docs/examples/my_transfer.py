"""A way of weights to servers: files of half the size."""

from collections.abc import Sequence
from typing import Literal

import torch

from laser_lightning.policy.model import Policy
from laser_lightning.rollout import FileTransfer, WeightStream
from laser_lightning.rollout.server.client import VLLMClient


class HalfSizeFiles(FileTransfer):
    """Writes the weights of a float32 policy in 16 bits, to which servers round what they load anyway.

    Args:
        directory: as of ``FileTransfer``.
        dtype: that of the servers.
    """

    def __init__(self, directory: str | None = None, dtype: Literal["bfloat16", "float16"] = "bfloat16") -> None:
        super().__init__(directory)
        self.dtype = getattr(torch, dtype)

    def send(self, weights: WeightStream, policy: Policy, version: str, servers: Sequence[VLLMClient]) -> str:
        rounded = ((name, weight.to(self.dtype)) for name, weight in weights)
        return super().send(rounded, policy, version, servers)
