"""Weights on their way to servers over NCCL, from GPU to GPU, by vLLM's own weight transfer."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import torch

from laser_lightning.errors import UserError
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import WeightStream, weight_shapes
from laser_lightning.rollout.server.client import ServerError, ServerFailed, VLLMClient
from laser_lightning.rollout.server.nccl_group import NCCLGroup, SentWeights
from laser_lightning.rollout.server.transfer import WeightTransfer, on_each, tell_missed
from laser_lightning.rollout.server.weights import begin_change, break_off_change, end_change

_OPTION = """--weight-transfer-config '{"backend": "nccl"}'"""


class NCCLTransfer(WeightTransfer):
    """Broadcast weights from the GPU of rank 0 to those of all servers, by vLLM's own weight transfer (0.32).

    Nothing is written, and nothing goes through host memory. vLLM must be in the trainer's environment too, in the
    version of the servers, which are started with ``--weight-transfer-config '{"backend": "nccl"}'``. This has not been
    run on CUDA yet: its calls are tested against vLLM's own classes, and its numbers with a stand-in for NCCL.

    Rank 0 and the workers of all servers are one group of NCCL:

        trainer  rank 0 .. n-1 gather a layer   ->  rank 0 of the group
        server a, 2 workers                         ranks 1 2
        server b, 4 workers                         ranks 3 4 5 6

    The group is made for the first weights, and anew where another server is there than for the last ones. So a server
    that dies between two of them is left out, and one that was started again comes back with the next ones; until then
    it draws nothing. One that dies, or hangs, while weights are on their way breaks them off for all servers: the group
    is aborted, and the run ends in a sentence.

    Args:
        master_address: the trainer's first machine as the servers see it; null for the address from which it reaches
            them.
        port: at which the group meets there; 0 for a free one.
        join_seconds: longest wait for the group to meet.
        dtype: type in which weights are sent; null for the policy's. vLLM rounds what it loads to its own: bfloat16
            halves the bytes of a float32 policy, and rounds the weights of a float32 head too.
        buffer_bytes: what is broadcast at once; each side has room for two of it.

    Raises:
        UserError: if vLLM is not installed, there is no GPU, or an argument is out of range.
    """

    def __init__(
        self,
        master_address: str | None = None,
        port: int = 0,
        join_seconds: float = 120.0,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        buffer_bytes: int = 1 << 30,
    ) -> None:
        if join_seconds <= 0 or buffer_bytes < 1 or not 0 <= port < 1 << 16:
            raise UserError(
                "weight_transfer.join_seconds must be above 0, weight_transfer.buffer_bytes at least 1, and "
                "weight_transfer.port a port or 0."
            )
        if find_spec("vllm") is None:
            raise UserError(
                "NCCLTransfer needs vLLM in the trainer's environment too, in the version of the servers: pip install "
                '"laser-lightning[vllm]", or hand weights over as files (engine.weight_transfer: FileTransfer).'
            )
        if not torch.cuda.is_available():
            raise UserError(
                "NCCLTransfer sends from GPU to GPU, and this machine has none: hand weights over as files "
                "(engine.weight_transfer: FileTransfer)."
            )
        self.master_address, self.port, self.join_seconds = master_address, port, join_seconds
        self.dtype: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
        self.buffer_bytes = buffer_bytes
        self._group: NCCLGroup | None = None
        self._version = ""

    def check(self, servers: Sequence[VLLMClient], policy: Policy) -> None:
        """Refuse a policy on CPU, and servers that were started without the option (see ``WeightTransfer``)."""
        gpu_of(policy)
        for server in servers:
            if ((server.settings().get("weight_transfer_config") or {}).get("backend")) != "nccl":
                raise UserError(f"{server.url} takes no weights over NCCL: start vllm serve with {_OPTION}.")

    def send(self, weights: WeightStream, policy: Policy, version: str, servers: Sequence[VLLMClient]) -> str:
        """Broadcast weights to the servers that are there (see ``WeightTransfer``)."""
        source = SentWeights(weights, weight_shapes(policy.lm), gpu_of(policy), self.dtype)
        restarted: list[VLLMClient] = []

        def begin(server: VLLMClient) -> None:
            if server.weight_version() != self._version:
                restarted.append(server)
            begin_change(server, "abort")  # nobody waits for what is under way

        present, errors = _told_apart(servers, on_each(servers, begin))
        try:
            if self._group is None or restarted or present != self._group.members:
                present, unable = self._meet(present, gpu_of(policy))
                errors += unable
            assert self._group is not None
            self._group.send(source)
        except UserError:
            self._group = None
            on_each(present, break_off_change)
            raise
        present, unable = _told_apart(present, on_each(present, lambda server: end_change(server, version)))
        tell_missed(errors + unable)
        self._version = version
        return version

    def send_again(self, server: VLLMClient, version: str, receipt: str) -> None:
        """Leave the server out, since all others would have to take part (see ``WeightTransfer``)."""
        raise ServerFailed(
            f"{server.url} has not the weights that were sent last, such as one that was started again: over NCCL it "
            "gets the next ones."
        )

    def close(self) -> None:
        """Dissolve the group; the servers go on, with the weights that they have."""
        if self._group is not None:
            self._group.dissolve()
            on_each(self._group.members, VLLMClient.leave_weight_transfer)
        self._group, self._version = None, ""

    def _meet(self, servers: list[VLLMClient], device: torch.device) -> tuple[list[VLLMClient], list[ServerError]]:
        """Make a new group; the servers in it, and why others are not."""
        if self._group is not None:
            self._group.dissolve()
        self._group = None
        workers: dict[VLLMClient, int] = {}

        def prepare(server: VLLMClient) -> None:
            server.leave_weight_transfer()  # of this run, or an earlier one
            workers[server] = server.worker_count()

        members, errors = _told_apart(servers, on_each(servers, prepare))
        on_each([server for server in servers if server not in members], break_off_change)
        self._group = NCCLGroup(
            members,
            [workers[server] for server in members],
            self.master_address,
            self.port,
            self.join_seconds,
            device,
            self.buffer_bytes,
        )
        return members, errors


def gpu_of(policy: Policy) -> torch.device:
    """The device of the policy.

    Raises:
        UserError: if it is no GPU that NCCL sends from.
    """
    if policy.device.type != "cuda":
        raise UserError(
            f"NCCLTransfer sends from GPU to GPU, and the policy is on {policy.device} (trainer.accelerator): hand "
            "weights over as files (engine.weight_transfer: FileTransfer)."
        )
    return policy.device


def _told_apart(
    servers: Sequence[VLLMClient], found: Sequence[ServerError | None]
) -> tuple[list[VLLMClient], list[ServerError]]:
    """The servers that are able, and the errors of the others.

    Raises:
        UserError: if none is.
    """
    able = [server for server, error in zip(servers, found, strict=True) if error is None]
    errors = [error for error in found if error is not None]
    if not able:
        raise UserError(
            f"No server takes the weights. {' '.join(map(str, errors))} Start one, and go on from the last checkpoint "
            "(--ckpt_path last)."
        )
    return able, errors
