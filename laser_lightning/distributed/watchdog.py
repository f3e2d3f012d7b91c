"""Says which rank the others wait for, and in which part of the step it is, when a collective operation fails.

A collective operation that fails knows nothing of the ranks that did not come. So each rank tells the key-value store
of the process group where it is, and a thread on each rank reads what the others told.
"""

import json
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import Strategy
from torch.distributed import PrefixStore, Store

from laser_lightning.distributed.files import write_on_first
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError

LIMIT_KEY = "trainer.strategy.init_args.collective_timeout_seconds"
ANSWER_SECONDS = 5.0
"""The longest time that the end of a run waits for the store, which may be gone."""

WARNING_SHARE = 0.8
"""Of the time limit: a rank that waits for longer warns."""

HOST_GONE = (
    " The key-value store of the process group does not answer any more: its host is gone, which is the process of "
    "rank 0 or, under torchrun, the agent of its node."
)

END = 2**62
"""Number of a rank whose run is over; no rank is further."""

SILENCE_SECONDS = 10.0
"""A rank of which nothing is heard for this long (and for four rounds of messages) is called silent."""


@dataclass(frozen=True)
class Position:
    """Where a rank is.

    Args:
        number: parts that it has entered and left so far, without parts of parts; all ranks pass the same ones.
        place: part and step, such as ``verification of step 12``.
        seconds: how long it has been there.
        error: what ended its run; None while it goes on.
        silent_seconds: since its last sign of life, where that is too long; else None.
    """

    number: int
    place: str
    seconds: float = 0.0
    error: str | None = None
    silent_seconds: float | None = None


def ranks_behind(table: Sequence[Position], rank: int) -> list[int]:
    """The ranks that ``rank`` waits for when it waits: those behind it, silent, or ended.

    Args:
        table: the position of each rank.
        rank: the one that waits.
    """
    return [
        other
        for other, position in enumerate(table)
        if other != rank
        and (position.number < table[rank].number or position.error is not None or position.silent_seconds is not None)
    ]


def sentence(table: Sequence[Position], rank: int, limit_seconds: float) -> str:
    """Where the ranks are that ``rank`` waits for, and where it is itself.

    Args:
        table: the position of each rank.
        rank: the one that waits.
        limit_seconds: time limit of a collective operation.
    """
    groups: dict[tuple[str, str | None, bool], list[int]] = {}  # ranks of which the same is to be said
    for other in ranks_behind(table, rank):
        position = table[other]
        groups.setdefault((position.place, position.error, position.silent_seconds is not None), []).append(other)
    clauses = []
    for (place, error, silent), ranks in groups.items():
        who = f"{_named(ranks)} {'has' if len(ranks) == 1 else 'have'}"
        if error is not None:
            clauses.append(f"{who} ended in {place} ({error})")
        elif silent:
            seconds = max(table[other].silent_seconds or 0.0 for other in ranks)
            clauses.append(f"{who} given no sign of life for {seconds:.0f} s, and was last in {place}")
        else:
            clauses.append(f"{who} been in {place} for {max(table[other].seconds for other in ranks):.0f} s")
    waits = bool(clauses) and table[rank].number == max(position.number for position in table)
    mine = f"rank {rank} {'waited' if waits else 'was'} in {table[rank].place} for {table[rank].seconds:.0f} s"
    if clauses:
        told = f"{'; '.join(clauses)}, while {mine}"
    elif all(position.number == table[rank].number for position in table):
        told = f"all {len(table)} ranks were in the same part: {mine}"
    else:
        told = mine
    limit = f"The time limit of a collective operation is {limit_seconds:g} s ({LIMIT_KEY})."
    return f"{told[0].upper()}{told[1:]}. {limit}"


def _named(ranks: Sequence[int], most: int = 8) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    shown = [str(rank) for rank in ranks[:most]]
    last = f"{len(ranks) - most} more" if len(ranks) > most else shown.pop()
    return f"ranks {', '.join(shown)} and {last}"


class Watchdog:
    """Tells the other ranks where this one is, and warns before a rank that waits reaches the time limit.

    The thread that trains never talks to the store, which could keep it waiting; a thread of the watchdog's own does.

    Args:
        store: of the process group.
        rank: this one.
        ranks: their number.
        limit_seconds: time limit of a collective operation.
    """

    def __init__(self, store: Store, rank: int, ranks: int, limit_seconds: float) -> None:
        # A connection of its own: the process group's is locked while somebody waits for a key.
        self._store = PrefixStore("laser_lightning/watchdog", store.clone())  # type: ignore[attr-defined]
        self._store.set_timeout(timedelta(seconds=ANSWER_SECONDS))
        self.rank, self.ranks, self.limit_seconds = rank, ranks, limit_seconds
        self.interval = min(max(limit_seconds / 30, 0.5), 10.0)
        self._parts: list[str] = []
        self._number = 0
        self._began = time.monotonic()
        self._here = (0, "set-up", self._began)  # number, place, since when
        self._error: str | None = None
        self._heard: dict[int, tuple[bytes, float]] = {}  # the last message of each rank, and when it came
        self._host_answers = True
        self._closed = False
        self._requests: queue.SimpleQueue[threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    # ------------------------------------------------------ the thread that trains

    @contextmanager
    def part(self, name: str, step: Callable[[], int]) -> Iterator[None]:
        """Around a part of the step; behind a part of a part the outer one goes on.

        Args:
            name: such as ``verification``.
            step: says how many optimizer steps were taken.
        """
        self._parts.append(name.replace("_", " "))
        self._number += len(self._parts) == 1
        self._arrive(step())
        try:
            yield
        finally:
            self._parts.pop()
            self._number += not self._parts
        self._arrive(step())  # an error, though, happened in the part

    def _arrive(self, step: int) -> None:
        parts = " of the ".join(reversed(self._parts))  # such as "rollout of the evaluation"
        place = f"{parts} of step {step}" if parts else f"step {step}"
        self._here = (self._number, place, time.monotonic())
        self._requests.put(None)

    def explanation(self, error: BaseException) -> str:
        """Tell the others that this rank ends, and say whom it waited for.

        Args:
            error: what ends it.
        """
        self._error = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        answered = threading.Event()
        self._requests.put(answered)
        answers = answered.wait(ANSWER_SECONDS) and self._host_answers
        return self._sentence() + ("" if answers else HOST_GONE)

    def close(self) -> None:
        """End the thread, and leave word that this rank waits for nobody and is waited for by nobody."""
        if self._error is None:
            self._here = (END, "the end of the run", time.monotonic())
        self._closed = True
        self._requests.put(None)
        self._thread.join(ANSWER_SECONDS)

    # ------------------------------------------------------- the watchdog's thread

    def _run(self) -> None:
        next_round, was_late = time.monotonic(), False
        while True:
            try:
                asked = self._requests.get(timeout=max(next_round - time.monotonic(), 0.0))
            except queue.Empty:
                asked = None
            is_last = self._closed
            is_round = asked is not None or time.monotonic() >= next_round
            if self._host_answers:
                try:
                    self._tell()
                    if is_round:
                        self._hear()
                except RuntimeError:  # reported with the next failure or warning: at the end of a run it may go first
                    self._host_answers = False
            if is_round:
                next_round = time.monotonic() + self.interval
                is_late = self._is_to_warn()
                if is_late and not was_late:
                    warnings.warn(self._sentence() + ("" if self._host_answers else HOST_GONE), stacklevel=1)
                was_late = is_late
            if asked is not None:
                asked.set()
            if is_last:
                return

    def _tell(self) -> None:
        position = self._own_position()
        self._store.set(str(self.rank), json.dumps([position.number, position.place, position.seconds, position.error]))

    def _hear(self) -> None:
        keys = [str(rank) for rank in range(self.ranks)]
        if not self._store.check(keys):  # before all have begun
            return
        now = time.monotonic()
        for rank, message in enumerate(self._store.multi_get(keys)):
            if rank not in self._heard or self._heard[rank][0] != message:
                self._heard[rank] = (message, now)

    def _own_position(self) -> Position:
        number, place, since = self._here
        return Position(number, place, time.monotonic() - since, self._error)

    def table(self) -> list[Position]:
        """The position of each rank, as far as this one has heard."""
        return [self._own_position() if rank == self.rank else self._position(rank) for rank in range(self.ranks)]

    def _position(self, rank: int) -> Position:
        if rank not in self._heard:
            return Position(-1, "start-up", time.monotonic() - self._began)
        message, came = self._heard[rank]
        number, place, seconds, error = json.loads(message)
        ago = time.monotonic() - came
        silent = self._host_answers and number < END and ago > max(SILENCE_SECONDS, 4 * self.interval)
        return Position(number, place, seconds + ago, error, ago if silent else None)

    def _is_to_warn(self) -> bool:
        """Whether this is the first of the ranks that wait, and one that waits for long."""
        table = self.table()
        if table[self.rank].seconds < WARNING_SHARE * self.limit_seconds or not ranks_behind(table, self.rank):
            return False
        ahead = max(position.number for position in table)
        waiting = [rank for rank, p in enumerate(table) if p.number == ahead and not (p.error or p.silent_seconds)]
        return self.rank == waiting[0] if waiting else False

    def _sentence(self) -> str:
        return sentence(self.table(), self.rank, self.limit_seconds)


def time_limit(seconds: float) -> timedelta:
    """The time limit of collective operations, checked.

    Args:
        seconds: as in the config.

    Raises:
        UserError: if it is not positive.
    """
    if seconds <= 0:
        raise UserError(f"{LIMIT_KEY} is {seconds:g}, and must be a positive number of seconds.")
    return timedelta(seconds=seconds)


class WatchedStrategy(Strategy):
    """A strategy of many processes whose errors say where the other ranks were."""

    watchdog: Watchdog | None = None

    def start_watchdog(self, limit: timedelta) -> None:
        """Start it, once the process group is there.

        Args:
            limit: time limit of a collective operation.
        """
        if self.watchdog is None and torch.distributed.get_world_size() > 1:
            store = torch.distributed.distributed_c10d._get_default_store()
            rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
            self.watchdog = Watchdog(store, rank, ranks, limit.total_seconds())

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Around a part of the step, such as ``rollout``."""
        if self.watchdog is None:
            yield
            return
        assert self.lightning_module is not None
        trainer = self.lightning_module.trainer
        with self.watchdog.part(name, lambda: trainer.global_step):
            yield

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's own, as a part of the step."""
        with self.part("checkpoint"):
            super().save_checkpoint(*args, **kwargs)

    def remove_checkpoint(self, filepath: Any) -> None:
        """Let the first process remove an earlier one; if it cannot, all end."""
        remove = partial(super().remove_checkpoint, filepath)
        write_on_first(Ranks(self), "The checkpoint", Path(filepath), remove, done="removed")

    def on_exception(self, exception: BaseException) -> None:
        """Add to the error where the ranks were."""
        super().on_exception(exception)
        if self.watchdog is not None and isinstance(exception, Exception):
            exception.add_note(self.watchdog.explanation(exception))

    def teardown(self) -> None:
        """Stop the watchdog too."""
        if self.watchdog is not None:
            self.watchdog.close()
            self.watchdog = None
        super().teardown()
