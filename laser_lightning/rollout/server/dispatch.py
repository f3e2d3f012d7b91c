"""A round's responses on their way through several servers, any of which may die, be slow, or come back."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from laser_lightning.errors import UserError
from laser_lightning.rollout.server.client import RequestRefused, ServerError

_LOOK_SECONDS = 0.2
"""How often those who wait look around."""

JobT = TypeVar("JobT")
MemberT = TypeVar("MemberT")


@dataclass(frozen=True)
class Perseverance:
    """How much goes wrong before a round is given up.

    Args:
        attempts: how often one response is drawn, each time on a server that can.
        patience_seconds: how long a round waits while no server can generate, such as for one that starts again.
        retry_seconds: how long a server rests that could not, before it is looked at again.
    """

    attempts: int = 3
    patience_seconds: float = 600.0
    retry_seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.patience_seconds < 0 or self.retry_seconds < 0:
            raise UserError(
                "perseverance.attempts must be at least 1, and perseverance.patience_seconds and "
                "perseverance.retry_seconds 0 or more."
            )


@dataclass
class _Place(Generic[MemberT, JobT]):
    """A server within the round; everything is guarded by the round's lock."""

    member: MemberT
    queue: deque[JobT]
    is_able: bool = False
    trouble: ServerError | None = None


class Dispatch(Generic[MemberT, JobT]):
    """Runs the jobs of a round on servers, each on one of them.

    Each server has a share. What a server that fails leaves undone goes to whoever is free:

        a  [0 1 2 3]  ->  0 1 2 3 | 6 7
        b  [4 5 6 7]  ->  4 5 x     .......... looked at again, and back for what is then left

    Args:
        ready: makes a server able to generate, or raises ``ServerError``. Called when the round begins, and again
            behind each failure.
        draw: does a job on a server, or raises ``ServerError``; a job may begin anew on another one.
        at_once: most jobs under way on a server.
        perseverance: when to give up.
    """

    def __init__(
        self,
        ready: Callable[[MemberT], None],
        draw: Callable[[MemberT, JobT], None],
        at_once: int,
        perseverance: Perseverance,
    ) -> None:
        self._ready, self._draw, self._at_once, self._perseverance = ready, draw, at_once, perseverance
        self._changed = threading.Condition()
        self._left_over: deque[JobT] = deque()
        self._attempts: Counter[int] = Counter()
        self._failure: BaseException | None = None
        self._undone = 0
        self._is_over = False

    def run(
        self,
        members: Sequence[MemberT],
        shares: Sequence[Sequence[JobT]],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Return when all jobs are done.

        Args:
            members: the servers.
            shares: the jobs of each of them.
            progress: told how many jobs are done, and how many there are.

        Raises:
            UserError: if a job fails too often, a server refuses one, or no server can generate for too long.
        """
        places = [_Place(member, deque(share)) for member, share in zip(members, shares, strict=True)]
        self._undone = count = sum(map(len, shares))
        self._threads_each = max(1, min(self._at_once, max(*map(len, shares), -(-count // len(places)))))
        # They are no more than daemons, since one may wait for its server while the program is to end.
        for place in places:
            threading.Thread(target=self._guard, args=(self._look_after, place), daemon=True).start()
        able_at = time.monotonic()
        try:
            with self._changed:
                while self._undone and self._failure is None:
                    self._changed.wait(_LOOK_SECONDS)
                    if any(place.is_able for place in places):
                        able_at = time.monotonic()
                    elif time.monotonic() - able_at > self._perseverance.patience_seconds:
                        self._failure = self._nobody_left(places)
                    if progress is not None:
                        progress(count - self._undone, count)
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()
        if self._failure is not None:
            raise self._failure

    @property
    def _has_ended(self) -> bool:
        return self._is_over or self._failure is not None or not self._undone

    def _look_after(self, place: _Place[MemberT, JobT]) -> None:
        """Keep a server at work, from being ready until it fails, and again."""
        while not self._has_ended:
            try:
                self._ready(place.member)
            except ServerError as error:
                self._give_up(place, error)
            else:
                self._keep_at_work(place)
            with self._changed:  # one that fails at once would use up the attempts of what others are too busy for
                self._changed.wait_for(lambda: self._has_ended, self._perseverance.retry_seconds)

    def _keep_at_work(self, place: _Place[MemberT, JobT]) -> None:
        """Have a server do jobs until it fails, or the round is over."""
        with self._changed:
            place.is_able = True
        threads = [
            threading.Thread(target=self._guard, args=(self._work, place), daemon=True)
            for _ in range(self._threads_each)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, place: _Place[MemberT, JobT]) -> None:
        while (job := self._next(place)) is not None:
            try:
                self._draw(place.member, job)
            except RequestRefused:
                raise
            except ServerError as error:
                self._give_up(place, error, job)
                return
            with self._changed:
                self._undone -= 1
                self._changed.notify_all()

    def _next(self, place: _Place[MemberT, JobT]) -> JobT | None:
        """The next job, once there is one; None where the round is over or the server fails."""
        with self._changed:
            while place.is_able and not self._has_ended:
                for queue in (place.queue, self._left_over):
                    if queue:
                        return queue.popleft()
                self._changed.wait(_LOOK_SECONDS)
        return None

    def _give_up(self, place: _Place[MemberT, JobT], error: ServerError, job: JobT | None = None) -> None:
        with self._changed:
            place.is_able, place.trouble = False, error
            if job is not None:
                self._left_over.append(job)
                self._attempts[id(job)] += 1
                if self._attempts[id(job)] >= self._perseverance.attempts:
                    self._failure = UserError(
                        f"A response could not be drawn in {self._perseverance.attempts} attempts "
                        f"(engine.perseverance.attempts). The last time: {error}"
                    )
            self._left_over.extend(place.queue)
            place.queue.clear()
            self._changed.notify_all()

    def _guard(self, target: Callable[[_Place[MemberT, JobT]], None], place: _Place[MemberT, JobT]) -> None:
        """Run a thread's target; what it raises ends the round."""
        try:
            target(place)
        except Exception as error:
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()

    def _nobody_left(self, places: Sequence[_Place[MemberT, JobT]]) -> UserError:
        troubles = " ".join(str(place.trouble) for place in places if place.trouble is not None)
        return UserError(
            f"No server has been able to generate for {self._perseverance.patience_seconds:g} s "
            f"(engine.perseverance.patience_seconds). {troubles or 'None has become ready.'} "
            "Start one, and go on from the last checkpoint (--ckpt_path last)."
        )
