"""Verification in worker processes, with a hard limit on the time of each response."""

import pickle
import selectors
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from laser_lightning.verifiers.base import Submission, Verification, Verifier
from laser_lightning.verifiers.judge import Judge
from laser_lightning.verifiers.process import WorkerProcess

_START_ATTEMPTS = 3
_LARGEST_CHUNK = 16
_REMEMBERED_ERRORS = 5
_ENDING_CHARACTERS = 80

Pair = tuple[str, str] | tuple[str, str, str | None]
"""Two texts to judge, and the name of one of a `MixedVerifier`'s verifiers where it is not the default."""


class VerifierPool:
    """Verifies responses in worker processes, so that no response can hang or crash the run.

    A response that takes too long, or on which the verifier raises or dies, is rewarded with 0.0 and carries
    an error; the others are still verified. Equal pairs are verified once. The workers start at the first
    use, hold a copy of the verifier as it is when the pool is made, and end when the pool is closed or this
    process dies. A pool is not for use by several threads at once.

    Attributes:
        failures: Number of responses (and comparisons) so far on which the verifier failed.

    Args:
        verifier: The verifier. Its class must be importable by name, so not defined in the main script.
        workers: Number of worker processes. 0 verifies in the calling process, without a time limit.
        timeout_seconds: Time that one response may take, in seconds, beyond the verifier's own limits (`own_seconds`).
    """

    def __init__(self, verifier: Verifier, workers: int = 2, timeout_seconds: float = 5.0) -> None:
        if workers < 0:
            raise ValueError(f"`workers` must be 0 or more, not {workers}.")
        if not timeout_seconds > 0:
            raise ValueError(f"`timeout_seconds` must be more than 0, not {timeout_seconds}.")
        self.verifier = verifier
        self.workers = workers
        self.timeout_seconds = timeout_seconds
        self.failures = 0
        self._errors: deque[str] = deque(maxlen=_REMEMBERED_ERRORS)
        self._judge = Judge(verifier)
        self._pickled_verifier = _pickled(verifier) if workers else b""
        self._running: list[WorkerProcess] = []
        self._failed_starts = 0

    @property
    def last_errors(self) -> list[str]:
        """The most recent errors, oldest first, each with the end of the response that caused it."""
        return list(self._errors)

    def verify(
        self, submissions: Sequence[Submission | Pair], progress: Callable[[int, int], None] | None = None
    ) -> list[Verification]:
        """Verifies responses.

        Args:
            submissions: The responses with what is known of their problems; (response, gold answer), with the
                verifier's name behind them where problems name theirs, are enough for verifiers that look at no more.
            progress: Told how many different submissions are verified, of how many, while the workers are at it.

        Returns:
            What the verifier says about each, in their order.

        Raises:
            RuntimeError: If the workers cannot start, for instance because they cannot import the verifier.
        """
        if not self.verifier.sees_all:  # the less is sent, and the more are equal
            submissions = [submission[:3] for submission in submissions]
        return self._judge_all("verify", submissions, progress)

    def answers(self, responses: Sequence[str], name: str | None = None) -> list[str | None]:
        """Finds final answers where no gold answer is known, under the same limits as `verify`.

        Args:
            responses: What the model wrote, without its prompts.
            name: Which of a `MixedVerifier`'s verifiers finds the answers; None for its default.

        Returns:
            The canonical answer of each response; None if it has none, or the verifier fails.

        Raises:
            RuntimeError: If the workers cannot start, for instance because they cannot import the verifier.
        """
        return [
            verification.answer for verification in self._judge_all("find", [(text, "", name) for text in responses])
        ]

    def equivalent(self, pairs: Sequence[Pair]) -> list[bool]:
        """Compares canonical answers, as voting does, under the same limits as `verify`.

        Args:
            pairs: (answer, other answer) of each comparison, with the verifier's name behind them where problems name
                theirs. Where the verifier calls both settled, their texts decide, and no worker is asked.

        Returns:
            Whether the two are equivalent, in the order of `pairs`; False where the verifier fails.

        Raises:
            RuntimeError: If the workers cannot start, for instance because they cannot import the verifier.
        """
        open_pairs = [pair for pair in pairs if not self._are_settled(*pair)]
        judged = dict(zip(open_pairs, self._judge_all("compare", open_pairs), strict=True))
        return [judged[pair].reward == 1.0 if pair in judged else pair[0] == pair[1] for pair in pairs]

    def _are_settled(self, answer: str, other: str, name: str | None = None) -> bool:
        verifier = self.verifier.named(name) if name is not None else self.verifier
        return verifier.is_settled(answer) and verifier.is_settled(other)

    def close(self) -> None:
        """Ends the workers. The pool can be used again; it then starts new ones."""
        for worker in self._running:
            worker.kill()
        self._running.clear()
        self._failed_starts = 0

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _seconds(self) -> float:
        return self.timeout_seconds + self.verifier.own_seconds

    def _judge_all(
        self, method: str, pairs: Sequence[tuple[Any, ...]], progress: Callable[[int, int], None] | None = None
    ) -> list[Verification]:
        unique = {_key(pair): pair for pair in pairs}
        if self.workers and unique:
            verifications = self._judge_in_workers(method, list(unique.values()), progress)
        else:
            verifications = [getattr(self._judge, method)(*pair) for pair in unique.values()]
        found = dict(zip(unique, verifications, strict=True))
        if self.verifier.reward_names:
            for key, verification in found.items():
                if verification.error and not verification.rewards:
                    found[key] = self._judge.failed(verification.error, *key[2:3])
        judged = [found[_key(pair)] for pair in pairs]
        for pair, verification in zip(pairs, judged, strict=True):
            if verification.error:
                self.failures += 1
                self._errors.append(f"{verification.error} (on {pair[0][-_ENDING_CHARACTERS:]!r})")
        return judged

    def _judge_in_workers(
        self, method: str, pairs: list[tuple[Any, ...]], progress: Callable[[int, int], None] | None
    ) -> list[Verification]:
        try:
            for worker in [worker for worker in self._running if not worker.is_alive()]:
                worker.kill()  # it died idle, so no response is to blame
                self._running.remove(worker)
            while len(self._running) < self.workers:
                self._running.append(self._new_worker())
            return self._distribute(method, pairs, progress)
        except BaseException:
            self.close()  # results still under way must not be taken for those of the next call
            raise

    def _new_worker(self) -> WorkerProcess:
        return WorkerProcess(self._pickled_verifier, self._seconds)

    def _distribute(
        self, method: str, pairs: list[tuple[Any, ...]], progress: Callable[[int, int], None] | None
    ) -> list[Verification]:
        waiting = deque(range(len(pairs)))
        results: dict[int, Verification] = {}
        chunk = max(1, min(_LARGEST_CHUNK, len(pairs) // (4 * self.workers)))
        with selectors.DefaultSelector() as selector:
            for worker in self._running:
                selector.register(worker.socket, selectors.EVENT_READ, worker)
            while len(results) < len(pairs):
                if progress is not None and results:
                    progress(len(results), len(pairs))
                for worker in self._running:
                    if worker.is_idle() and waiting:
                        numbers = [waiting.popleft() for _ in range(min(chunk, len(waiting)))]
                        worker.assign(method, numbers, [pairs[number] for number in numbers])
                deadline = min(worker.deadline for worker in self._running)
                for key, _ in selector.select(max(0.0, deadline - time.monotonic())):
                    self._read(key.data, results)
                for place, worker in enumerate(self._running):
                    if worker.ended or worker.deadline <= time.monotonic():
                        selector.unregister(worker.socket)
                        self._bury(worker, waiting, results)
                        self._running[place] = self._new_worker()
                        selector.register(self._running[place].socket, selectors.EVENT_READ, self._running[place])
        return [results[number] for number in range(len(pairs))]

    def _read(self, worker: WorkerProcess, results: dict[int, Verification]) -> None:
        for number, message in worker.receive():
            if number is not None:
                results[number] = Verification(*message)
            elif message is not None:
                raise RuntimeError(f"The verifier cannot be loaded in a worker process: {message}")
            else:
                self._failed_starts = 0

    def _bury(self, worker: WorkerProcess, waiting: deque[int], results: dict[int, Verification]) -> None:
        """Ends a worker that is late or has died: its current item fails, its others wait for another one."""
        ending = worker.kill()
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts == _START_ATTEMPTS:
                raise RuntimeError(
                    f"A worker process of the verifier did not start, {_START_ATTEMPTS} times in a row (the "
                    f"last one ended with {ending}). What it wrote is in the error output of this process."
                )
        if worker.in_flight:
            error = f"timed out after {self._seconds:g} s"
            if worker.ended:
                error = f"the verifier's process died ({ending})"
            results[worker.in_flight.popleft()] = Verification(0.0, None, error)
        waiting.extendleft(reversed(worker.in_flight))


def _key(pair: tuple[Any, ...]) -> tuple[Any, ...]:
    """What equal submissions share; rows, which cannot be hashed, are those of the same problem."""
    return (*pair[:5], id(pair[5])) if len(pair) > 5 else pair


def _pickled(verifier: Verifier) -> bytes:
    name = type(verifier).__name__
    if type(verifier).__module__ == "__main__":
        raise ValueError(
            f"The verifier {name} is defined in the main script, which worker processes cannot import: "
            "move it into a module of its own, or set `workers` to 0."
        )
    try:
        return pickle.dumps(verifier)
    except Exception as error:
        raise ValueError(
            f"The verifier {name} cannot be pickled for the worker processes ({error}): define its class at "
            "the top level of a module and keep only plain values in it, or set `workers` to 0."
        ) from error
