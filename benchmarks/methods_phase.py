"""Commands that are brought to their end once, however often that is broken off, and what they took."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from laser_lightning.errors import UserError

PROGRAM = (sys.executable, "-m", "laser_lightning")
"""Words in front of a command of this project."""


@dataclass(frozen=True)
class Taken:
    """What a command took.

    Attributes:
        cpu_seconds: of all its starts whose end was seen.
        peak_gb: the most memory that one of them held.
        cut: starts that were broken off; with any, steps were taken twice and seconds may be missing.
    """

    cpu_seconds: float
    peak_gb: float
    cut: int


PATIENCE = 10.0
"""Seconds that processes of a command which has ended may take to end too, before the next one is refused."""


class Children:
    """The processes that are running, so that all can be told to stop, and none begins afterwards.

    Args:
        threads: of each process.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._running: set[int] = set()
        self._stopping = False
        self._guard = threading.Lock()

    def run(self, command: Sequence[str], log: Path, held: int) -> dict[str, Any]:
        """Run a command, and wait for it.

        Args:
            command: words.
            log: takes what it prints, behind what is there.
            held: a file's descriptor that it keeps open.

        Returns:
            ``status``, ``cpu_seconds`` and ``peak_gb``.

        Raises:
            UserError: if all were told to stop.
        """
        environment = os.environ | {"OMP_NUM_THREADS": str(self._threads)}
        with self._guard, log.open("ab") as file:
            if self._stopping:
                raise UserError("stopped before it began")
            # A group of its own: Ctrl-C comes here alone, and is handed on once.
            process = subprocess.Popen(
                command, stdout=file, stderr=file, env=environment, pass_fds=[held], process_group=0
            )
            self._running.add(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._guard:  # the number is free for other processes from here on
            _, status, usage = os.wait4(process.pid, 0)
            self._running.remove(process.pid)
        process.returncode = os.waitstatus_to_exitcode(status)
        taken = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_gb": usage.ru_maxrss / 1e6}
        return {"status": process.returncode, **taken}

    def stop(self) -> None:
        """Tell all to stop: they write a checkpoint first."""
        with self._guard:
            self._stopping = True
            for number in self._running:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGTERM)


@dataclass(frozen=True)
class Phase:
    """A part of a run: one command of the program, which goes on where an earlier start of it was broken off.

    ``<folder>/<name>.jsonl`` has a line for each start and one for each end that was seen, and ``<folder>/<name>.log``
    what was printed. While it runs, its process holds ``<folder>/lock``, also when this one is killed.

    Attributes:
        name: of the phase, such as ``fit``.
        folder: of its records.
        arguments: words behind the program's name.
        settings: what its outcome depends on, as JSON holds it.
        program: words before the arguments.
    """

    name: str
    folder: Path
    arguments: tuple[str, ...]
    settings: dict[str, Any]
    program: tuple[str, ...] = PROGRAM

    @property
    def done(self) -> bool:
        """Whether it came to its end.

        Raises:
            UserError: if it did, or began, with other settings.
        """
        records = self._records()
        for record in records:
            if "started" in record and _in_order(record["settings"]) != self.settings:
                raise UserError(
                    f"{self.folder.parent} holds a run whose {self.name} had other settings ({self._path} has them): "
                    "give another --out, or delete that directory."
                )
        return any(record.get("status") == 0 for record in records)

    @property
    def taken(self) -> Taken:
        """What it took until it came to its end."""
        records = self._records()
        ends = [record for record in records if "status" in record]
        starts = len(records) - len(ends)
        return Taken(
            sum(end["cpu_seconds"] for end in ends),
            max((end["peak_gb"] for end in ends), default=0.0),
            starts - sum(end["status"] == 0 for end in ends),
        )

    def run(self, children: Children, program: Sequence[str] | None = None) -> None:
        """Bring it to its end, unless it is there.

        Args:
            children: run the process.
            program: in place of its own.

        Raises:
            UserError: if it fails, or runs already.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            if not _locks(lock):
                raise UserError(
                    f"{self.folder.parent}: the process of an earlier call still runs there: wait for it, or end it."
                )
            if self.done:
                return
            self._note({"started": datetime.now(UTC).isoformat(timespec="seconds"), "settings": self.settings})
            end = children.run(
                [*(program or self.program), *self.arguments], self.folder / f"{self.name}.log", lock.fileno()
            )
            self._note(end)
        if end["status"]:
            raise UserError(
                f"{self.folder.parent}: {self.name} ended with status {end['status']}; see {self.name}.log in phases"
            )

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.name}.jsonl"

    def _records(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").splitlines()
        return [record for line in lines if (record := _read(line)) is not None]

    def _note(self, record: dict[str, Any]) -> None:
        broken = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" * broken + json.dumps(record) + "\n")


def _read(line: str) -> dict[str, Any] | None:
    """A record; None for the half line of a process that was killed while it wrote."""
    try:
        return dict(json.loads(line))
    except json.JSONDecodeError:
        return None


def _in_order(settings: dict[str, Any]) -> dict[str, Any]:
    """Recorded settings, with configs as a list: earlier versions had them by name, in the same order."""
    configs = settings.get("configs")
    return settings | {"configs": list(configs.values())} if isinstance(configs, dict) else settings


def _locks(file: IO[str]) -> bool:
    """Whether the file could be locked within ``PATIENCE``."""
    began = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() - began > PATIENCE:
                return False
            time.sleep(0.1)
        else:
            return True
