"""Rewards compared with a moving average of those of their kind of problem (SPIRAL)."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.advantages.estimator import AdvantageEstimator
from laser_lightning.objective.context import StepContext
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class EMABaseline(AdvantageEstimator):
    """A = r - b_kind; behind each step b_kind becomes decay * b_kind + (1 - decay) * (mean reward of the kind).

    SPIRAL's role-conditioned advantage estimation (arXiv 2506.24119), with a kind of problem in the place of a game
    and a role. As in the authors' code b is 0 at first and read before it is updated. They update it once for each
    game, here it is once for each step that has problems of the kind, with the mean over all of them on all ranks, so
    that no order of solutions matters. Problems without a kind share a baseline.

    b is of the rewards before shaping, and of self-rewards there is none of their own: a baseline that is off adds
    variance to the gradient, and no bias.

    Args:
        decay: how slowly a baseline follows the rewards.
    """

    def __init__(self, decay: float = 0.95) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"advantage.estimator.decay is {decay}, and must be 0 or more, and below 1.")
        self.decay = decay
        self._baselines: dict[str, float] = {}

    def __call__(self, rewards: Float[Tensor, "P G"], rollout: Rollout, context: StepContext) -> Float[Tensor, "P G"]:
        """[P, G] (see ``AdvantageEstimator``)."""
        problems = [rollout.problem_of(row * rewards.shape[1]) for row in range(len(rewards))]
        baselines = [self._baselines.get(problem.kind or "", 0.0) for problem in problems]
        return rewards - torch.tensor(baselines, dtype=rewards.dtype, device=rewards.device)[:, None]

    def learn(self, rollout: Rollout, context: StepContext) -> None:
        """Update the baselines of the kinds that the step has."""
        own: dict[str, tuple[float, int]] = {}
        of_problems = rollout.grouped(rollout.policy_rewards).double()
        for problem, rewards in zip(rollout.problems, of_problems, strict=True):
            total, number = own.get(kind := problem.kind or "", (0.0, 0))
            own[kind] = total + rewards.sum().item(), number + len(rewards)
        sums: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
        for of_rank in context.ranks.gather(own):
            for kind, parts in of_rank.items():
                sums[kind].append(parts)
        for kind, found in sums.items():
            mean = sum(total for total, _ in found) / sum(number for _, number in found)
            self._baselines[kind] = self.decay * self._baselines.get(kind, 0.0) + (1 - self.decay) * mean

    def state_dict(self) -> dict[str, Any]:
        """The baselines, by kinds."""
        return {"baselines": dict(self._baselines)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from these baselines."""
        self._baselines = dict(state.get("baselines", {}))
