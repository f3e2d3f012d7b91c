"""Batches of problems for each rank, in an order that is a function of the seed and the epoch."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError


class PromptLoader:
    """Deals problems to the ranks in lists of ``Problem``; Lightning saves and restores its position.

    All ranks have the same number of batches per epoch, and no problem is dealt twice in an epoch.

    With ``drop_last`` (training) every batch has ``batch_size`` problems, and problems that do not fill a
    global batch of ``batch_size * world_size`` wait for the next epoch's order. The loader is a *stream*:
    each ``iter()`` hands out ``len(self)`` more batches, from where the last one stopped. So Lightning's
    epochs, cut short by ``limit_train_batches`` or not, go through the data in turn, and the position is all
    there is to save. It counts the batches handed out: checkpoints between steps resume exactly; in a
    checkpoint taken in the middle of a step (an exception) the unfinished batch counts as used.

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

    Raises:
        UserError: there are no problems, or with ``drop_last`` fewer than one global batch.
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
    ) -> None:
        self.problems = problems
        self.global_batch_size = batch_size * world_size
        self.seed, self.shuffle, self.drop_last = seed, shuffle, drop_last
        self.rank, self.world_size = rank, world_size
        if not problems:
            raise UserError("There are no problems to load.")
        if drop_last and len(problems) < self.global_batch_size:
            raise UserError(
                f"The training set has {len(problems)} problems, fewer than the {self.global_batch_size} of "
                "one step: lower data.prompts_per_step, or add problems."
            )
        self._position = 0  # batches handed out since the first epoch began
        self._order: tuple[int, list[int]] = (-1, [])  # epoch, and its order of the problems

    def __len__(self) -> int:
        """Batches per epoch, the same on all ranks."""
        whole, rest = divmod(len(self.problems), self.global_batch_size)
        return whole if self.drop_last or rest == 0 else whole + 1

    def __iter__(self) -> Iterator[list[Problem]]:
        # The position is read and moved only when a batch is asked for: Lightning makes iterators that it
        # never uses, and may make one before it restores the position.
        for number in range(len(self)):
            if self.drop_last:
                number = self._position
                self._position += 1
            yield self._deal(*divmod(number, len(self)))

    def state_dict(self) -> dict[str, Any]:
        """The position, and what the order depends on; the same on all ranks, whatever their number."""
        epoch, batches = divmod(self._position, len(self))
        return {"epoch": epoch, "batches": batches, **self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved position.

        Raises:
            UserError: the position belongs to other problems, or to another order of them.
        """
        differences = [
            f"{name} was {state.get(name)} and is {value}"
            for name, value in self._identity.items()
            if state.get(name) != value
        ]
        if differences:
            raise UserError(
                f"The checkpoint was made with other training data or another order of it: "
                f"{', '.join(differences)}. Resume with the data settings that it was made with, or start a "
                "new run from its weights."
            )
        self._position = state["epoch"] * len(self) + state["batches"]

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What the order depends on, besides the epoch."""
        digest = hashlib.sha256()
        for problem in self.problems:
            digest.update(f"{problem.index}\n{len(problem.problem)}\n{problem.problem}".encode())
        return {
            "problems": len(self.problems),
            "problems_sha256": digest.hexdigest()[:16],
            "prompts_per_step": self.global_batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
        }

    def _deal(self, epoch: int, batch: int) -> list[Problem]:
        """This rank's share of a global batch."""
        used = len(self) * self.global_batch_size if self.drop_last else len(self.problems)
        start, end = (used * number // len(self) for number in (batch, batch + 1))
        return [self.problems[index] for index in self._epoch_order(epoch)[start:end][self.rank :: self.world_size]]

    def _epoch_order(self, epoch: int) -> list[int]:
        if self._order[0] != epoch:
            order = list(range(len(self.problems)))
            if self.shuffle:
                random.Random(f"{self.seed}/{epoch}").shuffle(order)
            self._order = (epoch, order)
        return self._order[1]
