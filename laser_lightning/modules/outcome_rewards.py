"""Rewards that tell a wrong answer from none."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


@dataclass(frozen=True)
class OutcomeRewards:
    """What right, wrong and missing answers are worth to the policy, whatever the verifier's own rewards are.

    The defaults are those of RISE's outcome verifier (arXiv 2505.13445: boxed and matched, boxed and not matched, not
    boxed), for solutions and verifications alike.

    Args:
        correct: reward of a right answer.
        incorrect: that of a wrong one.
        missing: that of a response in which no answer was found.
    """

    correct: float = 1.0
    incorrect: float = -0.5
    missing: float = -1.0

    def __post_init__(self) -> None:
        for one in fields(self):
            if not math.isfinite(getattr(self, one.name)):
                raise UserError(f"rewards.{one.name} is {getattr(self, one.name)}, and must be a number.")

    def __call__(self, rollout: Rollout) -> Float[Tensor, " N"]:
        """[N] rewards of a round's solutions.

        Args:
            rollout: the round.
        """
        right = (rollout.rewards > CORRECT_THRESHOLD).tolist()
        found = [verification.answer is not None for verification in rollout.verifications]
        values = [
            self.correct if is_right else self.incorrect if answers else self.missing
            for is_right, answers in zip(right, found, strict=True)
        ]
        return torch.tensor(values, dtype=torch.float32, device=rollout.rewards.device)
