"""One problem of the embedded task, and the split that it belongs to."""

import random
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

Split = Literal["train", "val", "test"]

_SLIPS, _TRIES = 0.5, 100  # noise of a solution that is to be wrong, and how often it is tried
_SPLIT_OF_BUCKET: dict[int, Split] = {0: "val", 1: "test"}  # of 10 buckets; the others are for training


class Exercise(ABC):
    """A problem with its answer, which can be worked out on paper, by a teacher who slips."""

    @property
    @abstractmethod
    def problem(self) -> str:
        """The problem as the model reads it."""

    @property
    @abstractmethod
    def answer(self) -> str:
        """The gold answer, in the canonical form of ``ArithmeticVerifier``."""

    @property
    @abstractmethod
    def key(self) -> str:
        """What is the same for two spellings of one problem, such as ``3+12`` and ``12+3``."""

    @abstractmethod
    def solution(self, noise: float, rng: random.Random) -> str:
        """Work the problem out.

        Args:
            noise: probability of a slip.
            rng: source of the slips, and of what is free in a right solution.
        """

    @property
    @abstractmethod
    def ending(self) -> str:
        """What right solutions end with, and wrong ones do not."""

    def wrong_solution(self, rng: random.Random) -> str | None:
        """Work the problem out with slips until another result comes out; None where none does.

        Args:
            rng: source of the slips.
        """
        slipped = (self.solution(_SLIPS, rng) for _ in range(_TRIES))
        return next((solution for solution in slipped if not solution.endswith(self.ending)), None)

    @property
    def split(self) -> Split:
        """The split that the problem belongs to, by a hash of its key: in no other, whatever the seeds."""
        bucket = zlib.crc32(self.key.encode()) % 10
        return _SPLIT_OF_BUCKET.get(bucket, "train")


def draw_digits(digits: int, rng: random.Random) -> int:
    """A number with so many digits, the first of which is not 0 unless it is the only one."""
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


@dataclass(frozen=True)
class TwoNumbers(Exercise):
    """A sum or a product of two numbers; ``left`` and ``right`` may change places without changing its split."""

    left: int
    right: int
    operator: ClassVar[str]

    @property
    def problem(self) -> str:
        """For instance ``12+34``."""
        return f"{self.left}{self.operator}{self.right}"

    @property
    def ending(self) -> str:
        """The answer behind ``#``."""
        return f"#{self.answer}"

    @property
    def key(self) -> str:
        """The problem with the smaller number in front."""
        low, high = sorted((self.left, self.right))
        return f"{low}{self.operator}{high}"
