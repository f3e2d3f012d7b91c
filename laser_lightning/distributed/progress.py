"""What a step is doing, and how far it is, for whoever shows it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """The part of a step that is under way.

    Attributes:
        listener: called with the text of each change, such as ``rollout 12/64`` or, between parts, an empty one.
    """

    def __init__(self) -> None:
        self.listener: Callable[[str], None] | None = None
        self._parts: list[str] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Around a part; behind a part of a part the outer one goes on.

        Args:
            name: such as ``old_log_probs_pass``.
        """
        self._parts.append(name.replace("_", " "))
        self._tell()
        try:
            yield
        finally:
            self._parts.pop()
            self._tell()

    def advance(self, done: int, total: int) -> None:
        """Say how far the part is.

        Args:
            done: units of work that are done.
            total: all of them.
        """
        self._tell(f" {done}/{total}")

    def _tell(self, count: str = "") -> None:
        if self.listener is not None:
            inner, *outer = reversed(self._parts or [""])
            self.listener(" of the ".join([inner + count, *outer]))  # such as "rollout of the evaluation"
