"""REINFORCE with a moving average of all rewards as its baseline."""

from typing import Any

import torch
from torch import Tensor

from laser_lightning import AdvantageEstimator, StepContext
from laser_lightning.records.rollout import Rollout


class MovingBaseline(AdvantageEstimator):
    """A = r - b; behind each step b becomes decay * b + (1 - decay) * (mean reward of the step), from b = 0 on.

    Args:
        decay: how slowly the baseline follows the rewards.
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay, self.baseline = decay, 0.0

    def __call__(self, rewards: Tensor, rollout: Rollout, context: StepContext) -> Tensor:
        return rewards - self.baseline

    def learn(self, rollout: Rollout, context: StepContext) -> None:
        rewards = rollout.policy_rewards.double()
        total, number = context.ranks.sum(torch.stack((rewards.sum(), torch.ones_like(rewards).sum()))).tolist()
        self.baseline = self.decay * self.baseline + (1 - self.decay) * total / number

    def state_dict(self) -> dict[str, Any]:
        return {"baseline": self.baseline}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.baseline = state.get("baseline", 0.0)
