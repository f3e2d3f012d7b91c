"""Dads, domain-aware dynamic sampling: practise the kinds of problems that are solved least."""

from collections.abc import Sequence
from typing import Any

from laser_lightning.data.curriculum.curriculum import StepOutcome
from laser_lightning.data.curriculum.drawing import softmax
from laser_lightning.data.curriculum.kinds import KindCurriculum, known_by_kind
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError


class Dads(KindCurriculum):
    """Draws kinds by exp((max(0, target - R) + floor) / temperature), R their reward (RuleReasoner, arXiv 2506.08672).

    Every few training steps R <- decay R + (1 - decay) * mean reward, which begins with the first mean. Numbers are
    those of the authors' training script. Their code takes the mean over the step at which R is renewed alone; here it
    is taken over all steps since the last time. A kind that had no solutions keeps its R, and 0 if it never had any, so
    that all kinds are drawn alike at first.

    Args:
        target: reward from which on a kind is done.
        floor: what every kind is worth beside its distance to the target. It changes nothing by itself, since
            probabilities add up to 1; the paper has it.
        temperature: how evenly kinds are drawn.
        decay: weight of what was, in R.
        every_n_steps: training steps from one renewal of R to the next.
    """

    def __init__(
        self,
        target: float = 1.0,
        floor: float = 0.1,
        temperature: float = 0.3,
        decay: float = 0.5,
        every_n_steps: int = 8,
    ) -> None:
        if not temperature > 0 or not 0 <= decay < 1 or every_n_steps < 1:
            raise UserError(
                f"Dads (data.curriculum): temperature is {temperature}, decay {decay} and every_n_steps "
                f"{every_n_steps}; temperature must be above 0, decay at least 0 and below 1, and every_n_steps at "
                "least 1."
            )
        self.target, self.floor, self.temperature = target, floor, temperature
        self.decay, self.every_n_steps = decay, every_n_steps

    def begin(self, problems: Sequence[Problem]) -> None:
        """Begin without any reward."""
        super().begin(problems)
        self.means: dict[str | None, float] = {}
        self.pending: dict[str | None, tuple[float, int]] = {}  # sum and number of rewards since the last renewal
        self.steps = 0

    def probabilities(self) -> dict[str | None, float]:
        """In proportion to exp((max(0, target - R) + floor) / temperature)."""
        worth = {kind: max(0.0, self.target - self.means.get(kind, 0.0)) + self.floor for kind in self.of_kind}
        return softmax(worth, self.temperature)

    def learn(self, outcome: StepOutcome) -> None:
        """Add the step's rewards, and renew R when it is time."""
        for kind, rewards in known_by_kind(outcome, outcome.rewards).items():
            total, count = self.pending.get(kind, (0.0, 0))
            self.pending[kind] = total + float(rewards.sum()), count + len(rewards)
        self.steps += 1
        if self.steps % self.every_n_steps == 0:
            for kind, (total, count) in self.pending.items():
                mean = total / count
                old = self.means.get(kind, mean)
                self.means[kind] = self.decay * old + (1 - self.decay) * mean
            self.pending = {}

    def state_dict(self) -> dict[str, Any]:
        """The rewards of each kind, and those that wait for the next renewal."""
        return {"means": self.means, "pending": self.pending, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what was saved."""
        self.means, self.pending, self.steps = state["means"], state["pending"], state["steps"]
