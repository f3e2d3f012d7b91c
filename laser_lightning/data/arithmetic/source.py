"""The source of the embedded task: problems drawn from a seed, with worked solutions that hold slips."""

import random

from datasets import Dataset

from laser_lightning.data.arithmetic.checks import draw_check
from laser_lightning.data.arithmetic.exercise import Exercise, Split
from laser_lightning.data.arithmetic.kinds import drawer
from laser_lightning.data.seeds import seed_or_global
from laser_lightning.data.sources import ProblemSource
from laser_lightning.errors import UserError

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
        checks: share of the rows that ask for a verdict in place of a solution, for a supervised stage: the prompt is a
            problem with a solution, such as ``3,5,7>26=7*3=21;21+5=26?``, and the response ``yes`` or ``no``. Only for
            ``train``: no verifier of sums judges them.
    """

    def __init__(
        self,
        split: Split = "train",
        size: int = 20_000,
        seed: int | None = None,
        kinds: dict[str, float] | None = None,
        solution_noise: float | dict[str, float] = 0.0,
        checks: float = 0.0,
    ) -> None:
        self.split, self.size = split, size
        self.seed = HELD_OUT_SEED if seed is None and split != "train" else seed_or_global(seed)
        self.kinds = DEFAULT_KINDS if kinds is None else kinds
        for kind in self.kinds:
            drawer(kind)
        if size < 1 or min(self.kinds.values(), default=-1.0) < 0 or sum(self.kinds.values()) <= 0:
            raise UserError(
                f"The arithmetic source needs a positive size (it is {size}), and shares of its kinds that are "
                f"0 or more and not all 0 (they are {self.kinds})."
            )
        self.solution_noise = (
            solution_noise if isinstance(solution_noise, dict) else dict.fromkeys(self.kinds, solution_noise)
        )
        if self.solution_noise.keys() != self.kinds.keys():
            raise UserError(
                f"solution_noise has the kinds {', '.join(self.solution_noise) or 'of no problem'}, and kinds has "
                f"{', '.join(self.kinds)}: give one probability for all, or one for each of them."
            )
        if not all(0 <= noise <= 1 for noise in self.solution_noise.values()):
            raise UserError(f"solution_noise is {solution_noise}, and must be a probability, from 0 to 1.")

        if not 0 <= checks <= 1:
            raise UserError(f"checks is {checks}, and must be a share of the rows, from 0 to 1.")
        if checks and split != "train":
            raise UserError(f"checks is {checks} in the split '{split}': only training rows may ask for verdicts.")
        self.checks = checks

    def load(self) -> Dataset:
        """Make the problems (columns ``problem``, ``answer``, ``kind``, ``solution``)."""
        rng = random.Random(f"{self.seed}/{self.split}")
        names, shares = list(self.kinds), list(self.kinds.values())
        rows: list[dict[str, str]] = []
        draw = {kind: drawer(kind) for kind in names}
        seen: set[str] = set()
        failures = 0
        while len(rows) < self.size:
            kind = rng.choices(names, shares)[0]
            row = self._row(kind, draw[kind](rng), rng)
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

    def _row(self, kind: str, exercise: Exercise, rng: random.Random) -> dict[str, str] | None:
        """The columns of a problem, or None when it belongs to another split."""
        if exercise.split != self.split:
            return None
        if self.checks and rng.random() < self.checks:
            question, verdict = draw_check(exercise, rng)
            return {"problem": question, "answer": verdict, "kind": kind, "solution": verdict}
        solution = exercise.solution(self.solution_noise[kind], rng)
        return {"problem": exercise.problem, "answer": exercise.answer, "kind": kind, "solution": solution}
