"""The embedded task: arithmetic problems with worked solutions, made on the fly from a seed.

A mixture of difficulties: additions with their columns written out, which can be learned to perfection, and
products answered at once, which a small model gets right only sometimes. The mixture is what makes
self-verification learnable: the model can know which of its answers to doubt.
"""

import random
import zlib
from typing import Literal

from datasets import Dataset

from laser_lightning.data.seeds import seed_or_global
from laser_lightning.data.sources import ProblemSource
from laser_lightning.errors import UserError

Split = Literal["train", "val", "test"]

_SPLIT_OF_BUCKET: dict[int, Split] = {0: "val", 1: "test"}  # of 10 buckets; the others are for training

DEFAULT_KINDS = {
    "add1": 0.11,
    "add2": 0.11,
    "add3": 0.11,
    "add4": 0.11,
    "add5": 0.11,
    "mul21": 0.30,
    "mul22": 0.15,
}
HELD_OUT_SEED = 0  # evaluation problems do not follow the seed of a run
_OPERATORS = {"add": "+", "mul": "*"}


def split_of(operator: str, left: int, right: int) -> Split:
    """The split that a problem belongs to, by a hash of the problem itself.

    No problem is in two splits whatever the seeds, and ``a+b`` is always in the split of ``b+a``.
    """
    low, high = sorted((left, right))
    bucket = zlib.crc32(f"{low}{operator}{high}".encode()) % 10
    return _SPLIT_OF_BUCKET.get(bucket, "train")


def worked_addition(left: int, right: int, digit_noise: float, rng: random.Random) -> str:
    """Column addition, units first, then the sum after ``#``: ``7+5=12;4+8+1=13;#132``.

    Args:
        left: first summand.
        right: second summand.
        digit_noise: probability that a column's sum is written wrong. A wrong column is carried on
            consistently, as in a real slip.
        rng: source of the noise.
    """
    left_digits, right_digits = str(left)[::-1], str(right)[::-1]
    columns, digits, carry = [], "", 0
    for position in range(max(len(left_digits), len(right_digits))):
        terms = [int(text[position]) for text in (left_digits, right_digits) if position < len(text)]
        terms += [carry] if carry else []
        total = sum(terms)
        if rng.random() < digit_noise:
            total = (total + rng.randint(1, 19)) % 20
        columns.append("+".join(map(str, terms)) + f"={total};")
        digits, carry = str(total % 10) + digits, total // 10
    return "".join(columns) + "#" + str(int((str(carry) if carry else "") + digits))


class ArithmeticSource(ProblemSource):
    """Additions with written-out columns and products answered directly.

    Args:
        split: which problems: ``train``, ``val`` or ``test``; the three share no problem, whatever the seed.
        size: number of problems. Those of ``val`` and ``test`` are distinct; training problems may repeat.
        seed: seed of the problems and of the noise. Default: for ``train`` that of ``seed_everything``; for ``val`` and
            ``test`` 0, so that runs with other seeds are evaluated on the same problems.
        kinds: share of each kind of problem; ``add3`` adds two 3-digit numbers, ``mul21`` multiplies a 2-digit
            number by a 1-digit one. Shares need not add up to 1. Default: additions of 1 to 5 digits 0.55 in
            all, ``mul21`` 0.30, ``mul22`` 0.15.
        solution_noise: probability of a wrong sum in each column of the worked solutions (the supervised
            stage's teacher); answers are always right.
    """

    def __init__(
        self,
        split: Split = "train",
        size: int = 20_000,
        seed: int | None = None,
        kinds: dict[str, float] | None = None,
        solution_noise: float = 0.0,
    ) -> None:
        self.split, self.size, self.solution_noise = split, size, solution_noise
        self.seed = HELD_OUT_SEED if seed is None and split != "train" else seed_or_global(seed)
        self.kinds = DEFAULT_KINDS if kinds is None else kinds
        for kind in self.kinds:
            operator, digits = kind[:3], kind[3:]
            wanted = {"add": 1, "mul": 2}.get(operator)
            if wanted is None or len(digits) != wanted or not set(digits) <= set("123456789"):
                raise UserError(
                    f"kinds has '{kind}', which is not a kind of arithmetic problem: "
                    "write 'add3' (two 3-digit numbers) or 'mul21' (a 2-digit number times a 1-digit one)."
                )
        if size < 1 or min(self.kinds.values(), default=-1.0) < 0 or sum(self.kinds.values()) <= 0:
            raise UserError(
                f"The arithmetic source needs a positive size (it is {size}), and shares of its kinds that are "
                f"0 or more and not all 0 (they are {self.kinds})."
            )
        if not 0 <= solution_noise <= 1:
            raise UserError(f"solution_noise is {solution_noise}, and must be a probability, from 0 to 1.")

    def load(self) -> Dataset:
        """Make the problems (columns ``problem``, ``answer``, ``kind``, ``solution``)."""
        rng = random.Random(f"{self.seed}/{self.split}")
        names, shares = list(self.kinds), list(self.kinds.values())
        rows: list[dict[str, str]] = []
        seen: set[str] = set()
        failures = 0
        while len(rows) < self.size:
            row = self._draw(rng.choices(names, shares)[0], rng)
            if row is None or (self.split != "train" and row["problem"] in seen):
                failures += 1
                if failures > 1000 + 100 * self.size:
                    raise UserError(
                        f"Only {len(rows)} distinct '{self.split}' problems of the kinds {names} were found, "
                        f"but size is {self.size}: lower size or add kinds."
                    )
                continue
            seen.add(row["problem"])
            rows.append(row)
        return Dataset.from_list(rows)

    def _draw(self, kind: str, rng: random.Random) -> dict[str, str] | None:
        """One problem of this kind, or None when it belongs to another split."""
        operator = _OPERATORS[kind[:3]]
        first, second = int(kind[3]), int(kind[-1])
        left, right = (rng.randrange(10 ** (n - 1) if n > 1 else 0, 10**n) for n in (first, second))
        if split_of(operator, left, right) != self.split:
            return None
        if operator == "+":
            answer, solution = left + right, worked_addition(left, right, self.solution_noise, rng)
        else:
            answer, solution = left * right, f"#{left * right}"
        return {
            "problem": f"{left}{operator}{right}",
            "answer": str(answer),
            "kind": kind,
            "solution": solution,
        }
