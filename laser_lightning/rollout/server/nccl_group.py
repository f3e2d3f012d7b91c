"""The group of NCCL over which weights go: vLLM's trainer side of it, with an end to every wait."""

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from threading import Lock, Thread, Timer
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.policy.weight_stream import WeightShape, WeightStream
from laser_lightning.rollout.server.as_one import ServersAsOne
from laser_lightning.rollout.server.client import ServerError, VLLMClient

ABORTED_SECONDS = 60.0
"""Longest wait for a broadcast to return behind its abortion; then nothing but the end of the process ends it."""


class SentWeights:
    """A stream of weights as vLLM's ``WeightSource``: what comes is declared first, and then it comes.

    Args:
        weights: the stream.
        shapes: what it yields.
        device: that they are sent from.
        dtype: type that they are sent in; None for their own.
    """

    def __init__(
        self, weights: WeightStream, shapes: Sequence[WeightShape], device: torch.device, dtype: torch.dtype | None
    ) -> None:
        self._weights, self._shapes, self._device, self._dtype = weights, shapes, device, dtype

    def metadata(self) -> list[WeightShape]:
        """Names, types and shapes of what is sent, in its order."""
        return [replace(shape, dtype=self._type(shape.dtype)) for shape in self._shapes]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """The weights; once."""
        for name, weight in self._weights:
            # A copy, since vLLM packs those of several layers, and what is gathered lasts until the next one.
            yield name, weight.detach().to(self._device, self._type(weight.dtype), copy=True)

    def _type(self, own: torch.dtype) -> torch.dtype:
        return self._dtype if self._dtype is not None and own.is_floating_point else own


class NCCLGroup:
    """Rank 0 of the trainer and the workers of some servers, which have met.

    NCCL itself has no limit on the time. What ends its waits are the calls of the servers, each of which has one:

        meeting    in a thread; where a call fails, or the time is over, the thread is left behind
        sending    a call fails, or is late  ->  the communicator is aborted  ->  the broadcast returns
                                                 it does not within a minute  ->  the process ends, with a sentence

    Args:
        members: the servers.
        workers: processes of each.
        address: of the trainer's first machine, for the servers; None for the one from which it reaches them.
        port: at which they meet there; 0 for a free one.
        join_seconds: longest wait for them to meet.
        device: the GPU that weights are sent from.
        buffer_bytes: what is broadcast at once.

    Raises:
        UserError: if they do not meet.
    """

    def __init__(
        self,
        members: Sequence[VLLMClient],
        workers: Sequence[int],
        address: str | None,
        port: int,
        join_seconds: float,
        device: torch.device,
        buffer_bytes: int,
    ) -> None:
        self.members, self._device = list(members), device
        self._servers = ServersAsOne(members, workers, join_seconds, self._server_failed)
        self._outcomes: SimpleQueue[Any] = SimpleQueue()
        self._failure: ServerError | None = None
        self._last_resort: Timer | None = None
        self._lock, self._aborting, self._is_sending = Lock(), Lock(), False
        self._engine: Any = None
        self._source = SentWeights(iter(()), [], device, None)
        self._meet(
            join_seconds,
            master_address=address or address_towards([client.url for client in members]),
            master_port=port or _free_port(),
            world_size=1 + sum(workers),
            packed_buffer_size_bytes=buffer_bytes,
        )

    def send(self, source: SentWeights) -> None:
        """Broadcast weights to all members; returns when they compute with them.

        Raises:
            UserError: if it fails. The group is dissolved then, and the members have incomplete weights.
        """
        self._source = source
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # vLLM packs in streams that wait for no update
        self._is_sending = True
        try:
            self._engine.send_weights()
        except Exception as error:
            failure = self._failure or error
            self.dissolve()
            raise UserError(
                f"Weights were broken off on their way to the servers. {failure} The servers may still "
                "wait for the rest of them in NCCL: start them anew, and go on from the last checkpoint (--ckpt_path "
                "last)."
            ) from error
        finally:
            with self._lock:  # a server may fail just now
                self._is_sending = False
                if self._last_resort is not None:
                    self._last_resort.cancel()

    def dissolve(self) -> None:
        """Abort the communicator, and whatever is under way in it."""
        self._abort()
        self._servers.give_up()

    # ------------------------------------------- what vLLM's trainer side sees as the source of weights

    def metadata(self) -> list[WeightShape]:
        """What is sent next."""
        return self._source.metadata()

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """The weights that are sent next."""
        return iter(self._source)

    # -------------------------------------------------------------------------------------------------

    def _meet(self, seconds: float, **place: Any) -> None:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        def meet() -> None:
            try:
                with _current(self._device):  # which each thread has of its own
                    info = NCCLTrainerInitInfo(rank=0, packed=True, **place)
                    self._outcomes.put(
                        NCCLTrainerWeightTransferEngine.trainer_init(info, client=self._servers, source=self)
                    )
            except Exception as error:
                self._outcomes.put(error)

        Thread(target=meet, daemon=True).start()
        trouble = ""
        try:
            met = self._outcomes.get(timeout=seconds)
        except Empty:
            met, trouble = None, f"It took longer than {seconds:g} s (weight_transfer.join_seconds)."
        if met is None or isinstance(met, Exception):
            self._servers.give_up()
            raise UserError(
                f"The trainer and its servers do not meet over NCCL at {place['master_address']}, port "
                f"{place['master_port']}. {trouble or met} Can the servers reach that address "
                "(weight_transfer.master_address)? Start them anew, which may still wait in NCCL."
            )
        self._engine = met

    def _server_failed(self, error: ServerError) -> None:
        """A server will take part no more: end what waits for it."""
        self._failure = error
        self._outcomes.put(error)
        with self._lock:
            if not self._is_sending:
                return
            sentence = f"The broadcast of weights does not return from NCCL, so the process ends. {error}"
            self._last_resort = Timer(ABORTED_SECONDS, end_process, [sentence])
            self._last_resort.daemon = True
            self._last_resort.start()
        self._abort()

    def _abort(self) -> None:
        with self._aborting:  # once: the second of two threads finds nothing to abort
            if self._engine is not None:
                self._engine.shutdown()


def end_process(sentence: str) -> None:
    """End this process at once, whatever its threads are waiting for.

    Args:
        sentence: why.
    """
    print(f"error: {sentence} Go on from the last checkpoint (--ckpt_path last).", file=sys.stderr, flush=True)
    os._exit(1)


def address_towards(urls: Sequence[str]) -> str:
    """The address from which this machine reaches servers: one that is not its own loopback, if there is any."""
    found = []
    for url in urls:
        parts = urlsplit(url)
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.connect((parts.hostname, parts.port or 80))  # sends nothing
            found.append(str(way.getsockname()[0]))
    return next((address for address in found if not address.startswith("127.")), "127.0.0.1")


def _free_port() -> int:
    with socket.create_server(("", 0)) as free:
        return int(free.getsockname()[1])


def _current(device: torch.device) -> AbstractContextManager[Any]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
