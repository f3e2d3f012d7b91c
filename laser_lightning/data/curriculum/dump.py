"""DUMP: kinds of problems as the arms of a bandit, by an upper confidence bound of their advantages."""

import math
from collections.abc import Sequence
from typing import Any

from laser_lightning.data.curriculum.curriculum import StepOutcome
from laser_lightning.data.curriculum.drawing import softmax
from laser_lightning.data.curriculum.kinds import KindCurriculum, advantage_sizes, known_by_kind
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError


class DUMP(KindCurriculum):
    """Draws kinds by exp(bound / temperature), where exploration is part of the bound (arXiv 2504.09710).

    The bound of a kind is the mean of abs(A) over its latest solutions, plus sqrt(2 ln(N + 1) / (n + 1)), n of N
    solutions so far being its own. Window, bound and temperature are as in the authors' code, which counts solutions
    too.

    Args:
        window: latest solutions of a kind whose advantages count.
        temperature: how evenly kinds are drawn.
    """

    def __init__(self, window: int = 300, temperature: float = 0.1) -> None:
        if window < 1 or not temperature > 0:
            raise UserError(
                f"DUMP (data.curriculum): window is {window} and temperature {temperature}; window must be at least 1, "
                "and temperature above 0."
            )
        self.window, self.temperature = window, temperature

    def begin(self, problems: Sequence[Problem]) -> None:
        """Begin without any solution."""
        super().begin(problems)
        self.latest: dict[str | None, list[float]] = {kind: [] for kind in self.of_kind}
        self.counts: dict[str | None, int] = dict.fromkeys(self.of_kind, 0)

    def probabilities(self) -> dict[str | None, float]:
        """In proportion to exp(bound / temperature)."""
        total = max(1, sum(self.counts.values()))
        bounds = {}
        for kind, count in self.counts.items():
            latest = self.latest[kind]
            mean = math.fsum(latest) / len(latest) if latest else 0.0
            bounds[kind] = mean + math.sqrt(2 * math.log(total + 1) / (count + 1))
        return softmax(bounds, self.temperature)

    def learn(self, outcome: StepOutcome) -> None:
        """Add the step's solutions."""
        for kind, sizes in known_by_kind(outcome, advantage_sizes(outcome)).items():
            self.latest[kind] = (self.latest[kind] + sizes.tolist())[-self.window :]
            self.counts[kind] += len(sizes)

    def state_dict(self) -> dict[str, Any]:
        """The latest advantages, and the counts."""
        return {"latest": self.latest, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what was saved."""
        self.latest, self.counts = state["latest"], state["counts"]
