"""The answer for which the evidence of its solutions' scores adds up to most."""

import math
from typing import Literal

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.metrics.votes.additive import AdditiveRule
from laser_lightning.metrics.votes.candidates import ONE_VOTE, Candidates
from laser_lightning.shapes import Float, Int


class LogOddsVote(AdditiveRule):
    """The answer with the highest sum of its solutions' log-odds, logit(r_s), r_s clamped to [0, 1] (ours).

    Evidence adds up: two solutions with 0.9 outweigh one with 0.95. A score below 0.5 counts against its answer, which
    may then lose to one that fewer solutions give.

    Args:
        limit: log-odds are clamped to +- this, in nats, so that no single score decides; 4 is a probability of 0.982.
    """

    name = "log_odds"
    unit: Literal["votes", "log_odds"] = "log_odds"

    def __init__(self, limit: float = 4.0) -> None:
        if not 0 < limit <= 1000:
            raise UserError(f"limit of {type(self).__name__} is {limit}, and must be above 0, and at most 1000.")
        self.limit = limit
        self.least, self.most = -limit, limit

    def probabilities(self, candidates: Candidates) -> Float[Tensor, " N"]:
        """[N] float64 in [0, 1], how probably each solution is correct: here its clamped self-reward."""
        return candidates.self_rewards.double().clamp(0, 1)

    def votes(self, candidates: Candidates) -> Int[Tensor, " N"]:
        """[N] int64, the clamped log-odds."""
        return (self.log_odds(self.probabilities(candidates)) * ONE_VOTE).round().long()

    def log_odds(self, probabilities: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """[N] float64 log-odds of probabilities, clamped."""
        return torch.logit(probabilities.double()).clamp(-self.limit, self.limit)


def probability(log_odds: float) -> float:
    """The probability of these log-odds, in nats."""
    return 1 / (1 + math.exp(-log_odds)) if log_odds >= 0 else 1 - probability(-log_odds)
