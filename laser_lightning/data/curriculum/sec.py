"""SEC, the self-evolving curriculum: practise the kinds of problems whose advantages are large."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from laser_lightning.data.curriculum.curriculum import StepOutcome
from laser_lightning.data.curriculum.drawing import softmax
from laser_lightning.data.curriculum.kinds import KindCurriculum, advantage_sizes, known_by_kind
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError


class SEC(KindCurriculum):
    """Draws kinds by exp(Q / temperature), Q a running mean of what a step gained on them (arXiv 2505.14970).

    Q <- (1 - rate) Q + rate * mean abs(A) for each kind in the step, from 0 on. The temperatures are those of the
    authors' scripts: 1.0 on countdown, 0.4 on mathematics, 0.2 with kinds of two dimensions.

    Args:
        temperature: how evenly kinds are drawn.
        rate: weight of the latest step.
    """

    def __init__(self, temperature: float = 1.0, rate: float = 0.5) -> None:
        if not temperature > 0 or not 0 < rate <= 1:
            raise UserError(
                f"{type(self).__name__} (data.curriculum): temperature is {temperature} and rate {rate}; temperature "
                "must be above 0, and rate above 0 and at most 1."
            )
        self.temperature, self.rate = temperature, rate

    def begin(self, problems: Sequence[Problem]) -> None:
        """Begin with Q = 0 for every kind."""
        super().begin(problems)
        self.values: dict[str | None, float] = dict.fromkeys(self.of_kind, 0.0)

    def gains(self, outcome: StepOutcome) -> Tensor:
        """[P, G] what each solution was worth to learn from, NaN where that is not known."""
        return advantage_sizes(outcome)

    def probabilities(self) -> dict[str | None, float]:
        """In proportion to exp(Q / temperature)."""
        return softmax(self.values, self.temperature)

    def learn(self, outcome: StepOutcome) -> None:
        """Move the Q of the step's kinds."""
        for kind, gains in known_by_kind(outcome, self.gains(outcome)).items():
            self.values[kind] = (1 - self.rate) * self.values[kind] + self.rate * float(gains.mean())

    def state_dict(self) -> dict[str, Any]:
        """The values Q."""
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved values."""
        self.values = state["values"]
