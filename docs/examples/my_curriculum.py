"""Trains more on the kinds of problems that teach most."""

import math
from typing import Any

from laser_lightning.data import Curriculum, Draw, Problem, StepOutcome


class InstructiveKinds(Curriculum):
    """Draws kinds by the size of their advantages, and problems of a kind at random (SEC, arXiv 2505.14970).

    Args:
        temperature: how evenly kinds are drawn.
        rate: weight of the latest step in a kind's running mean.
    """

    def __init__(self, temperature: float = 0.4, rate: float = 0.5) -> None:
        self.temperature, self.rate = temperature, rate

    def begin(self, problems: list[Problem]) -> None:
        self.taught = dict.fromkeys([problem.kind for problem in problems], 0.0)
        self.of_kind = {kind: [i for i, one in enumerate(problems) if one.kind == kind] for kind in self.taught}

    def choose(self, draw: Draw) -> list[int]:
        weights = [math.exp(taught / self.temperature) for taught in self.taught.values()]
        kinds = draw.generator.choices(list(self.taught), weights, k=draw.count)
        return [draw.generator.choice(self.of_kind[kind]) for kind in kinds]

    def learn(self, outcome: StepOutcome) -> None:
        for kind in dict.fromkeys(outcome.kinds):
            of_kind = outcome.advantages[[other == kind for other in outcome.kinds]].nan_to_num()
            self.taught[kind] += self.rate * (float(of_kind.abs().mean()) - self.taught[kind])

    def state_dict(self) -> dict[str, Any]:
        return {"taught": self.taught}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taught = state["taught"]
