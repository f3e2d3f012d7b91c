"""What stands in for NCCL, for vLLM's trainer side of a weight transfer over it, and for a server's workers."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from fake_server import Answer
from fake_vllm import FakeVLLM

TOO_LONG_SECONDS = 60


class AbortedError(RuntimeError):
    """Of a communicator."""


class FakeCommunicator:
    """A group that waits as NCCL does: until all ranks have come, or it is aborted, and otherwise for ever.

    Rank 0 sends a tensor, which every other rank takes before the next one is sent.
    """

    def __init__(self, world_size: int) -> None:
        self.world_size, self.ranks, self.aborted = world_size, set[int](), False
        self.tensor: Tensor | None = None
        self.left: set[int] = set()
        self.changed = threading.Condition()

    def wait_for(self, there: Callable[[], bool]) -> None:
        with self.changed:
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.aborted or there(), TOO_LONG_SECONDS), "nobody ended the wait"
            if self.aborted:
                raise AbortedError

    def join(self, *ranks: int) -> None:
        with self.changed:
            assert not self.ranks & set(ranks), "two workers have one rank"
            self.ranks |= set(ranks)
        self.wait_for(lambda: len(self.ranks) == self.world_size)
        assert self.ranks == set(range(self.world_size))

    def broadcast(self, tensor: Tensor) -> None:
        if self.aborted:  # as vLLM's communicator does nothing then
            return
        with self.changed:
            self.tensor, self.left = tensor, set(range(1, self.world_size))
        self.wait_for(lambda: not self.left)

    def receive(self, rank: int) -> Tensor:
        self.wait_for(lambda: rank in self.left)
        with self.changed:
            assert self.tensor is not None
            found = self.tensor.clone()
            self.left.discard(rank)
            self.changed.notify_all()
        return found

    def destroy(self) -> None:
        with self.changed:
            self.aborted = True
            self.changed.notify_all()


@dataclass
class Network:
    """Where groups meet; ``made`` holds all of them, in their order."""

    made: list[tuple[tuple[str, int], FakeCommunicator]] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def at(self, address: str, port: int, world_size: int) -> FakeCommunicator:
        with self.lock:
            for place, group in self.made:
                if place == (address, port):
                    return group
            self.made.append(((address, port), FakeCommunicator(world_size)))
            return self.made[-1][1]


@dataclass
class NCCLTrainerInitInfo:
    """Of vLLM 0.32, with its fields."""

    network: ClassVar[Network]

    master_address: str
    master_port: int
    world_size: int
    packed: bool = True
    packed_buffer_size_bytes: int = 1 << 30
    packed_num_buffers: int = 2
    rank: int = field(kw_only=True)


class NCCLTrainerWeightTransferEngine:
    """Of vLLM 0.32: it makes the same calls, in the same order and the same threads."""

    def __init__(self, client: Any, source: Any) -> None:
        self.client, self.source = client, source
        self.model_update_group: FakeCommunicator | None = None

    @classmethod
    def trainer_init(cls, info: NCCLTrainerInitInfo, *, client: Any, source: Any) -> "NCCLTrainerWeightTransferEngine":
        engine = cls(client, source)
        told = asdict(info) | {"rank_offset": 1}
        del told["rank"]
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(client.init_weight_transfer_engine, told)
            group = info.network.at(info.master_address, info.master_port, info.world_size)
            group.join(0)
            future.result()
        engine.model_update_group = group
        return engine

    def send_weights(self) -> None:
        declared = self.source.metadata()
        told = {
            "names": [one.name for one in declared],
            "dtype_names": [str(one.dtype).split(".")[-1] for one in declared],
            "shapes": [list(one.shape) for one in declared],
        }
        self.client.start_weight_update()
        pool = ThreadPoolExecutor(1)
        try:
            future = pool.submit(self.client.update_weights, told)
            group = self.model_update_group
            assert group is not None
            pairs = list(self.source)  # packed: tensors of all layers are held, and sent later
            for expected, (name, tensor) in zip(declared, pairs, strict=True):
                assert (name, tensor.dtype, tuple(tensor.shape)) == (expected.name, expected.dtype, expected.shape)
                group.broadcast(tensor)
            future.result()
        finally:
            pool.shutdown(wait=False)
        self.client.finish_weight_update()

    def shutdown(self) -> None:
        if self.model_update_group is not None:
            self.model_update_group.destroy()
            self.model_update_group = None


@dataclass
class FakeWorkers:
    """The workers of a server, which receive weights."""

    vllm: FakeVLLM
    network: Network
    count: int = 1
    group: FakeCommunicator | None = None
    ranks: range = range(0)
    active: bool = False
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def answers(self) -> dict[str, Answer]:
        return {
            "/get_world_size": lambda asked: {"world_size": self.count},
            "/init_weight_transfer_engine": self.join,
            "/shutdown_weight_transfer_engine": self.leave,
            "/start_weight_update": self.start,
            "/update_weights": self.update,
            "/finish_weight_update": self.finish,
        }

    def join(self, asked: dict[str, Any]) -> Any:
        info = asked["init_info"]
        assert self.group is None
        self.ranks = range(info["rank_offset"], info["rank_offset"] + self.count)
        self.group = self.network.at(info["master_address"], info["master_port"], info["world_size"])
        self.group.join(*self.ranks)

    def leave(self, asked: dict[str, Any]) -> Any:
        assert not self.active
        self.group = None

    def start(self, asked: dict[str, Any]) -> Any:
        assert self.vllm.paused
        assert self.vllm.version == "incomplete"
        assert not self.active
        self.active = True

    def update(self, asked: dict[str, Any]) -> Any:
        assert self.active
        assert self.group is not None
        self.told = asked["update_info"]
        received: dict[str, Tensor] = {}
        for name, dtype, shape in zip(*(self.told[key] for key in ("names", "dtype_names", "shapes")), strict=True):
            try:
                for rank in self.ranks:
                    received[name] = self.group.receive(rank)
            except AbortedError:
                return 500, "aborted"
            assert received[name].dtype == getattr(torch, dtype)
            assert list(received[name].shape) == shape
        with self.vllm.lock:
            self.vllm.lm.load_state_dict(received)

    def finish(self, asked: dict[str, Any]) -> Any:
        assert self.active
        self.active = False
