"""A worker process, seen from the pool. `worker.py` is the other side and describes what they say."""

import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

# Loading the verifier may import much, from a slow file system.
_START_SECONDS = 300.0

# A fresh interpreter, because forking is unsafe beside torch's threads, and multiprocessing's spawn imports
# the main module again, with torch. The import path is set first, so that a worker finds what this process
# finds.
_START = (
    "import sys; sys.path[:] = sys.argv[2:]; from laser_lightning.verifiers.worker import main; main(int(sys.argv[1]))"
)


class WorkerProcess:
    """Starts a worker and keeps account of what it was given.

    Args:
        pickled_verifier: The verifier, pickled.
        timeout_seconds: Time that one item may take, in seconds.

    Attributes:
        socket: Readable when `receive` has something to read.
        ready: Whether the verifier is loaded.
        ended: Whether the worker has closed the connection.
        in_flight: Numbers of the items given to it and not yet judged, in order; it is at work on the first.
        deadline: When it should have said something, in the seconds of `time.monotonic`; infinity while idle.
    """

    def __init__(self, pickled_verifier: bytes, timeout_seconds: float) -> None:
        self.socket, theirs = socket.socketpair()
        path = [entry or os.getcwd() for entry in sys.path]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-c", _START, str(theirs.fileno()), *path],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # so that it can be killed along with what the verifier has started
            )
        self.ready = False
        self.ended = False
        self.in_flight: deque[int] = deque()
        self.deadline = time.monotonic() + _START_SECONDS
        self._timeout_seconds = timeout_seconds
        self._received = b""
        self._send((pickled_verifier, timeout_seconds))

    def _send(self, message: object) -> None:
        # If the worker has died, the end of its stream will say so.
        with suppress(ConnectionError):
            self.socket.sendall(pickle.dumps(message))

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def is_idle(self) -> bool:
        """Whether it is ready and has nothing to do."""
        return self.ready and not self.in_flight

    def assign(self, method: str, numbers: list[int], pairs: Sequence[tuple[Any, ...]]) -> None:
        """Gives items to an idle worker.

        Args:
            method: The method of `Judge` to call.
            numbers: The items' numbers.
            pairs: The items themselves.
        """
        self.in_flight.extend(numbers)
        self.deadline = time.monotonic() + self._timeout_seconds
        self._send((method, pairs))

    def receive(self) -> list[tuple[int | None, Any]]:
        """Reads what the worker has said.

        Returns:
            Each item judged, as its number and the fields of a `Verification`; at the start, None and None when the
            verifier is loaded, or None and a sentence when it cannot be.
        """
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionError:
            data = b""
        self.ended = not data
        *lines, self._received = (self._received + data).split(b"\n")
        messages = [(self.in_flight.popleft() if self.ready else None, json.loads(line)) for line in lines]
        if lines:
            self.ready = True
            # It starts an item as soon as it has told of the one before.
            self.deadline = time.monotonic() + self._timeout_seconds if self.in_flight else math.inf
        return messages

    def kill(self) -> str:
        """Ends the process and all that it has started.

        Returns:
            How it ended, in words.
        """
        self.socket.close()
        if self.ended:
            with suppress(subprocess.TimeoutExpired):  # it is about to end by itself: learn how
                self._process.wait(timeout=1)
        with suppress(ProcessLookupError, PermissionError):  # gone already
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
