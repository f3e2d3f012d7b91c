"""The process of an ``EngineProcess``: ``messages`` describes what is said."""

import os
import signal
import time
import traceback
from contextlib import nullcontext
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch
from transformers.utils import logging

from laser_lightning.arguments import made_from
from laser_lightning.errors import UserError
from laser_lightning.policy.loading import load_tokenizer
from laser_lightning.policy.model import FrozenPolicy
from laser_lightning.policy.weight_stream import stream_weights
from laser_lightning.rollout.engine import RolloutEngine
from laser_lightning.rollout.process.messages import (
    Done,
    Draw,
    Drawn,
    Failed,
    Progress,
    Reply,
    Request,
    Start,
    TakeWeights,
    receive,
    send,
)
from laser_lightning.rollout.process.weights import WeightCopy, read_weights

PROGRESS_SECONDS = 0.2
"""Least time between two messages that say how far a round is."""


def main(connection: int, shared_file: int) -> None:
    """Serve a trainer until it is gone.

    Args:
        connection: descriptor of the socket to it.
        shared_file: descriptor of the file that holds weights on their way.
    """
    for descriptor in (connection, shared_file):  # what the engine starts must not keep them open
        os.set_inheritable(descriptor, False)
    # A cluster sends these to every process of a job; it is the trainer who decides what they mean.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    logging.disable_progress_bar()
    trainer = Connection(connection)
    requests: SimpleQueue[tuple[int, Request]] = SimpleQueue()
    Thread(target=_listen, args=(trainer, requests), daemon=True).start()
    _serve(trainer, requests, shared_file)


def _listen(trainer: Connection, requests: "SimpleQueue[tuple[int, Request]]") -> None:
    """Pass requests on; end the process, whatever it does, where the trainer is gone."""
    try:
        while True:
            requests.put(receive(trainer))
    except (EOFError, OSError):
        os._exit(0)


def _serve(trainer: Connection, requests: "SimpleQueue[tuple[int, Request]]", shared_file: int) -> None:
    drawing: _Drawing | None = None
    while True:
        number, request = requests.get()
        reply: Reply = Done()
        try:
            if isinstance(request, Start):
                drawing = _Drawing(request)
            elif isinstance(request, TakeWeights):
                assert drawing is not None
                drawing.take_weights(request, shared_file)
            else:
                assert drawing is not None
                reply = drawing.draw(request, _Teller(trainer, number))
        except UserError as error:
            reply = Failed(str(error))
        except Exception as error:
            reply = Failed(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        send(trainer, number, reply)


class _Teller:
    """Tells the trainer how far a round is, now and then."""

    def __init__(self, trainer: Connection, number: int) -> None:
        self._trainer, self._number, self._told_at = trainer, number, 0.0

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._told_at > PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            send(self._trainer, self._number, Progress(done, total))


class _Drawing:
    """The model and the engine."""

    def __init__(self, start: Start) -> None:
        torch.set_num_threads(start.threads)
        torch.set_float32_matmul_precision(start.matmul_precision)
        self._policy = FrozenPolicy(start.policy, load_tokenizer(start.policy)).to(start.device)
        self._engine: RolloutEngine = made_from(start.engine)
        self._generator = torch.Generator(self._policy.device)
        self._copy = WeightCopy(self._policy.lm)

    def take_weights(self, request: TakeWeights, shared_file: int) -> None:
        self._copy.take(read_weights(shared_file, request.size), request.is_last)
        if request.is_last:
            self._engine.weights_changed()

    def draw(self, request: Draw, progress: _Teller) -> Drawn:
        self._generator.set_state(request.generator)
        self._engine.progress = progress
        device = self._policy.device.type
        passes: Any = nullcontext() if request.autocast is None else torch.autocast(device, request.autocast)
        with passes, torch.no_grad():
            if not self._engine.needs_whole_weights:
                self._engine.take_weights(self._policy, nullcontext(stream_weights(self._policy.lm)))
            rollouts = self._engine.generate(
                self._policy,
                request.prompts,
                request.group_size,
                request.sampling,
                request.reward_token_ids,
                self._generator,
            )
        return Drawn(rollouts.to(torch.device("cpu")), self._generator.get_state())
