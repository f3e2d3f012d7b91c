"""A process that is told to stop breaks off what it is doing, where nothing is lost by it, together with all others."""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

import torch
from lightning.pytorch.strategies import Strategy
from torch.distributed import PrefixStore, Store

POLL_SECONDS = 0.5
"""How often a process looks whether another one was told to stop."""

REPEAT_SECONDS = 3.0
"""A part that goes on for this long after it was to break off (code of others caught the exception) is told again."""

SECOND_SECONDS = 1.0
"""A second Ctrl-C is one that comes this long after the first: launchers hand the first on."""

STORE_SECONDS = 5.0
"""The longest time that the store may take to answer."""


class Stopped(SystemExit):
    """The run ends, with the exit status that shells give to a process ended by the signal.

    Args:
        number: of the signal.
        what: where it ends, and how it goes on; ends the sentence ``stopped by <signal> ...``.
    """

    def __init__(self, number: int, what: str) -> None:
        super().__init__(128 + number)
        self.number = number
        self.sentence = f"stopped by {signal.Signals(number).name} {what}"


class BrokenOffError(KeyboardInterrupt):
    """Raised by the signal's handler wherever this process is; libraries let a KeyboardInterrupt pass."""


class Interruption:
    """Hears the signals that stop a run, and breaks off parts of a step that may be broken off.

    Within ``interruptible`` the handler of a signal raises an exception wherever the process is, as Ctrl-C does in
    every Python program: between two tokens, while it waits for the verifier, in an engine of somebody else. Elsewhere
    it takes a note, and the next part breaks off before it begins. Many processes agree at the end of every part, and
    before every collective operation within one (``together``), and leave all or none:

        rank 0   part: rollout ....... signal | agree                                -> all leave
        rank 1   part: rollout ............... | signal handed on by the store, agree -> all leave
        rank 2   part: rollout . together: agree .................. (waits for the others) -> all leave

    A thread hands a signal on to the other processes through the key-value store of the process group. It hears of
    signals even where the process itself waits in a collective operation.
    """

    def __init__(self) -> None:
        self._numbers: Sequence[int] = ()  # the last one that was heard counts
        self._strategy: Strategy | None = None
        self._where: Callable[[], str] = str
        self._heard = -1  # place in `_numbers`
        self._open = False  # whether a signal breaks off what is going on
        self._held = False
        self._thread: threading.Thread | None = None
        self._handlers: dict[int, object] = {}

    # ------------------------------------------------------ the thread that trains

    def listen(self, numbers: Sequence[int], strategy: Strategy, where: Callable[[], str]) -> None:
        """Take over signals, from the main thread.

        Args:
            numbers: the signals, the most important last.
            strategy: by which the processes agree.
            where: says where the run ends, for ``Stopped``.
        """
        if self._thread is not None:
            return
        self._numbers, self._strategy, self._where = tuple(numbers), strategy, where
        self._heard, self._open, self._held, self._closed = -1, False, False, False
        self._store = _store()
        self._own_signals = 0  # that the thread has sent to this process
        self._told = self._told_at = 0.0
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._earlier_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self._handle) for number in self._numbers}
        self._main = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="interruption", daemon=True)
        self._thread.start()

    def close(self, hears_on: bool = False) -> None:
        """Give the signals back.

        Args:
            hears_on: only note signals from now on, until somebody else takes them: the run is about to end, and what
                came before may not be fit for it (Lightning's handler of SIGTERM waits for the other processes).
        """
        if self._thread is None:
            return
        self._closed = True
        self._thread.join()
        self._thread, self._open = None, False
        signal.set_wakeup_fd(self._earlier_fd)
        for number, handler in self._handlers.items():
            if not hears_on and signal.getsignal(number) == self._handle:
                signal.signal(number, handler)  # type: ignore[arg-type]
        self._reader.close()
        self._writer.close()

    def hold(self) -> None:
        """The weights have changed: nothing is broken off until the round is whole."""
        self._held = True

    def release(self) -> None:
        """The round is whole: its successor may be broken off."""
        self._held = False

    @contextmanager
    def interruptible(self, communicates: bool = False) -> Iterator[None]:
        """Around a part that changes nothing that is saved but states that ``StopOnSignal`` puts back.

        All processes enter it together. A part of a part is one with it.

        Args:
            communicates: whether the processes talk to each other in it, by other means than ``together``; then many
                of them end it before they leave.

        Raises:
            Stopped: at its end, or before a collective operation in it, on all processes, if any was told to stop.
        """
        if self._thread is None or self._held or self._open:
            yield
            return
        try:
            try:
                self._open = not communicates or self._is_alone
                if self._heard >= 0 and self._open:
                    raise BrokenOffError
                yield
            finally:
                self._open = False  # a signal that comes just before is caught below
        except BrokenOffError:
            self._open = False
        self._leave_if_told()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around a collective operation: within a part all processes agree first, and none breaks off in it."""
        was_open = self._open
        if was_open and not self._is_alone:
            self._open = False
            self._leave_if_told()
        yield
        if was_open:
            self._open = True
            if self._heard >= 0:
                raise BrokenOffError

    def agreed(self) -> int | None:
        """The signal that any process has received, if one has; all ask together."""
        if self._thread is None:
            return None
        heard = self._heard
        if not self._is_alone:
            assert self._strategy is not None
            own = torch.tensor(heard, device=self._strategy.root_device)
            heard = int(self._strategy.reduce(own, reduce_op="max"))
        return self._numbers[heard] if heard >= 0 else None

    @property
    def _is_alone(self) -> bool:
        return self._store is None

    def _leave_if_told(self) -> None:
        if (stopped := self.stopped()) is not None:
            raise stopped

    def stopped(self) -> Stopped | None:
        """What ends the run, if any process was told to stop; all ask together."""
        number = self.agreed()
        return None if number is None else Stopped(number, self._where())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._hear(number)
        if self._open:
            self._told_at = time.monotonic()
            raise BrokenOffError

    def _hear(self, number: int) -> None:
        self._heard = max(self._heard, self._numbers.index(number))

    # ----------------------------------------------------------- the other thread

    def _watch(self) -> None:
        interrupted_at: float | None = None
        store, handed_on = self._store, -1
        while not self._closed:
            if select.select([self._reader], [], [], POLL_SECONDS)[0]:
                for number in self._reader.recv(64):
                    if number not in self._numbers:
                        continue
                    if self._own_signals:
                        self._own_signals -= 1
                        continue
                    self._hear(number)
                    self._told_at = time.monotonic()  # the handler is about to run
                    if number == signal.SIGINT:
                        now = time.monotonic()
                        if interrupted_at is not None and now - interrupted_at > SECOND_SECONDS:
                            os.write(2, b"laser-lightning: left at once, without saving\n")
                            os._exit(128 + number)
                        interrupted_at = now if interrupted_at is None else interrupted_at
            if store is not None:
                try:
                    handed_on = self._exchange(store, handed_on)
                except RuntimeError:  # the run ends, or its collective operations will say what is wrong
                    store = None
            late = time.monotonic() - self._told_at > REPEAT_SECONDS
            if self._heard >= 0 and self._open and late:
                self._told_at = time.monotonic()
                self._own_signals += 1
                signal.pthread_kill(self._main, self._numbers[self._heard])

    def _exchange(self, store: Store, handed_on: int) -> int:
        """Tell the others what was heard here, or hear what they were told."""
        if self._heard > handed_on:
            store.set("stop", str(self._heard))
            return self._heard
        if store.check(["stop"]):
            self._heard = max(self._heard, int(store.get("stop")))
        return max(handed_on, self._heard)


def _store() -> Store | None:
    """The key-value store of many processes, by a connection that nobody else waits on; None of one process."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return None
    shared = torch.distributed.distributed_c10d._get_default_store()
    store = PrefixStore("laser_lightning/interruption", shared.clone())  # type: ignore[attr-defined]
    store.set_timeout(timedelta(seconds=STORE_SECONDS))
    return store
