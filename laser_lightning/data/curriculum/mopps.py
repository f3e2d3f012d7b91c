"""MoPPS, model predictive prompt selection: a belief of each problem's success rate, and problems near one half."""

from collections.abc import Sequence
from typing import Any

import torch

from laser_lightning.data.curriculum.curriculum import Curriculum, Draw, StepOutcome
from laser_lightning.data.curriculum.drawing import draw_from
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError


class MoPPS(Curriculum):
    """Chooses, of several times as many problems, those whose success rate is nearest to a target (arXiv 2507.04632).

    The rate of a problem is believed to be Beta(alpha, beta), from Beta(1, 1) on. After each step
    alpha <- decay alpha + (1 - decay) 1 + successes and beta likewise with failures, for the problems in it, with those
    of all its groups where one comes several times. To choose, a rate is drawn from the belief of each of
    ``candidates * count`` random problems, and the nearest are taken. As in the authors' code (their strategy "topk",
    with Beta(1, 1) as prior, and 0.5 as target). A reward between 0 and 1 counts as that part of a success.

    Args:
        candidates: batches' worth of problems to choose from.
        target: success rate that is looked for.
        decay: how much of a belief is left after each step that a problem is in; 1 forgets nothing.
    """

    def __init__(self, candidates: int = 16, target: float = 0.5, decay: float = 1.0) -> None:
        if candidates < 1 or not 0 <= target <= 1 or not 0 <= decay <= 1:
            raise UserError(
                f"MoPPS (data.curriculum): candidates is {candidates}, target {target} and decay {decay}; candidates "
                "must be at least 1, and target and decay lie between 0 and 1."
            )
        self.candidates, self.target, self.decay = candidates, target, decay

    def begin(self, problems: Sequence[Problem]) -> None:
        """Begin with Beta(1, 1) for every problem."""
        super().begin(problems)
        self.beliefs = torch.ones(len(problems), 2, dtype=torch.float64)  # alpha, beta

    def choose(self, draw: Draw) -> list[int]:
        """The candidates whose drawn rates are nearest to the target."""
        size = len(self.problems)
        pool = draw_from(draw.generator, range(size), min(size, self.candidates * draw.count))
        beliefs = self.beliefs[pool].tolist()
        distances = [abs(draw.generator.betavariate(*belief) - self.target) for belief in beliefs]
        nearest = [pool[place] for place in sorted(range(len(pool)), key=distances.__getitem__)]
        whole, rest = divmod(draw.count, size)  # a set smaller than a step comes several times
        return nearest * whole + nearest[:rest]

    def learn(self, outcome: StepOutcome) -> None:
        """Add what was solved, and what was not."""
        success = outcome.rewards.double().clamp(0, 1)
        counts = torch.stack((success, 1 - success), dim=-1).sum(dim=1)
        added = torch.zeros_like(self.beliefs).index_add_(0, torch.tensor(outcome.problems), counts)
        seen = sorted(set(outcome.problems))  # each forgets once, however often it comes
        self.beliefs[seen] = self.decay * self.beliefs[seen] + (1 - self.decay) + added[seen]

    def state_dict(self) -> dict[str, Any]:
        """The beliefs."""
        return {"beliefs": self.beliefs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved beliefs."""
        self.beliefs = state["beliefs"]
