"""A bar on the terminal, which what others write stands above."""

import logging
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

FORMAT = "{desc} |{bar:20}| {elapsed}<{remaining}{postfix}"
TICK_SECONDS = 1.0
LOGGERS = ("lightning.pytorch", "lightning.fabric")
"""Those whose messages go to the terminal."""


class StepBar:
    """A bar such as ``step 37/200 |███      | 02:10<09:32, rollout 12s, reward 0.637``, on stderr.

    It is drawn anew every second, so that a part of a step that takes minutes is seen to go on.

    Args:
        text: what stands before the bar.
        done: where it begins.
        total: where it ends; None if that is not known.
    """

    def __init__(self, text: str, done: int, total: int | None) -> None:
        # Terminals that do not know their size (0 x 0) get the usual one; tqdm would draw nothing on them.
        size = shutil.get_terminal_size()
        self._bar = tqdm(
            desc=text, total=total, initial=done, bar_format=FORMAT, ncols=size.columns - 1, nrows=size.lines
        )
        self._part, self._values, self._since = "", "", time.monotonic()
        self._others = ExitStack()
        self._others.enter_context(logging_redirect_tqdm([logging.getLogger(name) for name in LOGGERS]))
        self._others.enter_context(_warnings_above())
        self._closed = threading.Event()
        self._clock = threading.Thread(target=self._tick, name="progress bar", daemon=True)
        self._clock.start()

    def move(self, text: str, done: int, values: str = "") -> None:
        """Show a step that is done.

        Args:
            text: what stands before the bar.
            done: where the bar is now.
            values: what stands behind it, until the next step.
        """
        self._bar.set_description_str(text, refresh=False)
        self._bar.n, self._values = done, values
        self._draw()

    def show_part(self, part: str) -> None:
        """Show what is under way.

        Args:
            part: such as ``update 3/8``; an empty text between parts.
        """
        if part.split(" ")[:1] != self._part.split(" ")[:1]:
            self._since = time.monotonic()
        self._part = part
        self._draw()

    def close(self) -> None:
        """Leave the bar as it is, and the terminal to others."""
        self._closed.set()
        self._clock.join()
        self._part = ""
        self._draw()
        self._bar.close()
        self._others.close()

    def _draw(self) -> None:
        seconds = time.monotonic() - self._since
        part = f"{self._part} {seconds:.0f}s" if self._part and seconds >= TICK_SECONDS else self._part
        self._bar.ncols = shutil.get_terminal_size().columns - 1
        self._bar.set_postfix_str(", ".join(text for text in (part, self._values) if text), refresh=True)

    def _tick(self) -> None:
        while not self._closed.wait(TICK_SECONDS):
            self._draw()


@contextmanager
def _warnings_above() -> Iterator[None]:
    shown = warnings.showwarning

    def show_above(*args: Any, **kwargs: Any) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            shown(*args, **kwargs)

    warnings.showwarning = show_above
    try:
        yield
    finally:
        warnings.showwarning = shown
