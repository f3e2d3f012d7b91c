"""Work that is done beside what the caller does next."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

_Found = TypeVar("_Found")


class Meanwhile:
    """Does jobs in a thread of its own, one after the other.

    The thread does not keep the program from ending, as those of an executor do.
    """

    def __init__(self) -> None:
        self._thread: Thread | None = None

    def start(self, jobs: Sequence[Callable[[], _Found]]) -> list["Future[_Found]"]:
        """Start jobs, behind those that are under way; behind one that fails the others fail as it did.

        Args:
            jobs: in their order.

        Returns:
            What each will have found.
        """
        self.wait()
        found: list[Future[_Found]] = [Future() for _ in jobs]

        def work() -> None:
            for number, job in enumerate(jobs):
                try:
                    found[number].set_result(job())
                except BaseException as error:
                    for future in found[number:]:
                        future.set_exception(error)
                    return

        self._thread = Thread(target=work, name="rollouts", daemon=True)
        self._thread.start()
        return found

    def wait(self) -> None:
        """Wait until all of them are done, or have failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
