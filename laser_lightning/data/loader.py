"""Batches of problems for each rank: those that the curriculum chooses, or, in evaluations, all of them."""

import hashlib
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from operator import index
from typing import Any

from laser_lightning.data.curriculum.curriculum import Curriculum, Draw
from laser_lightning.data.curriculum.state import copied, saved_state
from laser_lightning.data.curriculum.uniform import InOrder, UniformShuffling
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError


class PromptLoader:
    """Deals problems to the ranks in lists of ``Problem``; Lightning saves and restores its position.

    All ranks have the same number of batches per epoch: as many whole ones as the problems fill, and at least one.

    With ``drop_last`` (training) every batch has ``batch_size`` problems, this rank's share of the
    ``batch_size * world_size`` that the curriculum chooses (fewer problems than that come several times). The loader is
    a *stream*: each ``iter()`` hands out ``len(self)`` more batches, from where the last one stopped. So Lightning's
    epochs, cut short by ``limit_train_batches`` or not, go through the data in turn, and the position and what the
    curriculum has learned are all there is to save. The position counts the batches handed out: checkpoints between
    steps resume exactly; in a checkpoint taken in the middle of a step (an exception) the unfinished batch counts as
    used.

    Without ``drop_last`` (evaluation) every ``iter()`` starts at the beginning, all problems come, and the
    sizes of the batches differ by at most one over batches and ranks. Where there are too few problems for
    that (fewer than ranks, or batches of one), a rank's batch can be an empty list.

    Args:
        problems: the problems, the same on all ranks.
        batch_size: problems per batch on each rank.
        seed: seed of the order.
        rank: this process.
        world_size: number of processes.
        shuffle: draw a new order for each epoch; otherwise keep the order of ``problems``.
        drop_last: training rather than evaluation, see above.
        curriculum: chooses the problems of training; default: ``UniformShuffling``, or ``InOrder`` without ``shuffle``.
            It is this loader's own.
        step: how many optimizer steps the run has taken; default: as many as batches were handed out.

    Attributes:
        choices_checksum: of all that was chosen since the loader was made; equal on ranks that chose the same.

    Raises:
        UserError: there are no problems.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        curriculum: Curriculum | None = None,
        step: Callable[[], int] | None = None,
    ) -> None:
        self.problems = problems
        self.global_batch_size = batch_size * world_size
        self.seed, self.shuffle, self.drop_last = seed, shuffle, drop_last
        self.rank, self.world_size = rank, world_size
        if not problems:
            raise UserError("There are no problems to load.")
        self.curriculum = (UniformShuffling() if shuffle else InOrder()) if curriculum is None else curriculum
        self.curriculum.begin(problems)
        saved_state(self.curriculum)  # what no checkpoint can hold is refused now
        self.choices_checksum = 0
        self._step = step
        self._position = 0  # batches handed out since the first epoch began

    def __len__(self) -> int:
        """Batches per epoch, the same on all ranks."""
        whole, rest = divmod(len(self.problems), self.global_batch_size)
        return max(1, whole) if self.drop_last or rest == 0 else whole + 1

    def __iter__(self) -> Iterator[list[Problem]]:
        # The position is read and moved only when a batch is asked for: Lightning makes iterators that it
        # never uses, and may make one before it restores the position.
        for number in range(len(self)):
            chosen = self._choose() if self.drop_last else self._part(number)
            yield [self.problems[place] for place in chosen[self.rank :: self.world_size]]

    def places_of(self, indices: Sequence[int]) -> list[int]:
        """The places in ``problems`` of the problems with these row numbers."""
        return [self._places[row] for row in indices]

    def state_dict(self) -> dict[str, Any]:
        """The position, what the order depends on, and what the curriculum has learned; the same on all ranks, whatever
        their number."""
        epoch, batches = divmod(self._position, len(self))
        return {"epoch": epoch, "batches": batches, **self._identity, "learned": saved_state(self.curriculum)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            UserError: the position belongs to other problems, or to another order of them.
        """
        # those of version 0.1 had no other curriculum, and later ones did not say of which kinds the problems were
        curriculum = "UniformShuffling()" if state.get("shuffle") else "InOrder()"
        kinds = self._identity["kinds_sha256"]
        saved = {"curriculum": curriculum, "learned": {}, "kinds_sha256": kinds} | state
        differences = [
            f"{name} was {saved.get(name)} and is {value}"
            for name, value in self._identity.items()
            if saved.get(name) != value
        ]
        if differences:
            raise UserError(
                f"The checkpoint was made with other training data or another order of it: "
                f"{', '.join(differences)}. Resume with the data settings that it was made with, or start a "
                "new run from its weights."
            )
        self._position = state["epoch"] * len(self) + state["batches"]
        self.curriculum.load_state_dict(copied(saved["learned"], "the state of the curriculum"))

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What the order depends on, besides the epoch."""
        digest, kinds = hashlib.sha256(), hashlib.sha256()
        for problem in self.problems:
            digest.update(f"{problem.index}\n{len(problem.problem)}\n{problem.problem}".encode())
            kinds.update(f"{problem.kind!r}\n".encode())  # as Python writes it: None is no kind of that name
        return {
            "problems": len(self.problems),
            "problems_sha256": digest.hexdigest()[:16],
            "kinds_sha256": kinds.hexdigest()[:16],
            "prompts_per_step": self.global_batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "curriculum": _described(self.curriculum),
        }

    @cached_property
    def _places(self) -> dict[int, int]:
        return {problem.index: place for place, problem in enumerate(self.problems)}

    def _choose(self) -> Sequence[int]:
        """The next global batch of training, by the curriculum."""
        number, count = self._position, self.global_batch_size
        self._position += 1
        step = number if self._step is None else self._step()
        draw = Draw(number, count, step, self.seed, random.Random(f"{self.seed}/draw {number}"))
        chosen = [index(place) for place in self.curriculum.choose(draw)]
        if len(chosen) != count or not all(0 <= place < len(self.problems) for place in chosen):
            raise UserError(
                f"{type(self.curriculum).__name__} (data.curriculum) chose {len(chosen)} problems with numbers from "
                f"{min(chosen, default=0)} to {max(chosen, default=0)}: choose must return {count} numbers from 0 to "
                f"{len(self.problems) - 1}."
            )
        self.choices_checksum = zlib.crc32(repr(chosen).encode(), self.choices_checksum)
        return chosen

    def _part(self, number: int) -> Sequence[int]:
        """The global batch of an evaluation with this number."""
        start, end = (len(self.problems) * border // len(self) for border in (number, number + 1))
        return self._evaluation_order[start:end]

    @cached_property
    def _evaluation_order(self) -> Sequence[int]:
        return self.curriculum.choose(Draw(0, len(self.problems), 0, self.seed, random.Random(self.seed)))


def _described(curriculum: Curriculum) -> str:
    """A curriculum with its arguments, as Python writes it."""
    given = {name: repr(value) for name, value in curriculum.plain_arguments.items()} | curriculum.other_arguments
    return f"{type(curriculum).__name__}({', '.join(f'{name}={value}' for name, value in given.items())})"
