"""Rewards compared with all of the round (REINFORCE++)."""

import torch
from torch import Tensor

from laser_lightning.objective.advantages.estimator import AdvantageEstimator
from laser_lightning.objective.advantages.groups import centre, check_epsilon, divide
from laser_lightning.objective.context import StepContext
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class BatchNormalized(AdvantageEstimator):
    """A = (r - mean) / (std + epsilon), mean and sample standard deviation those of the whole round, on all ranks.

    REINFORCE++ (arXiv 2501.03262, global advantage normalisation).

    Args:
        baseline: take the distance from the group's mean in place of the reward (REINFORCE++ with baseline); the mean
            of these distances over the round is 0 by itself.
        epsilon: added to the standard deviation.
    """

    def __init__(self, baseline: bool = False, epsilon: float = 1e-6) -> None:
        check_epsilon(epsilon)
        self.baseline, self.epsilon = baseline, epsilon

    def __call__(self, rewards: Float[Tensor, "P G"], rollout: Rollout, context: StepContext) -> Float[Tensor, "P G"]:
        """[P, G] (see ``AdvantageEstimator``); 0 where a reward equals the mean it is compared with."""
        count = rewards.new_tensor(rewards.numel(), dtype=torch.float64)
        if self.baseline:
            centred = centre(rewards)
        else:
            total, number = context.ranks.sum(torch.stack((rewards.double().sum(), count)))
            # Rounded to the type of the rewards, the mean of equal rewards is that reward, and they end at exactly 0.
            centred = rewards - (total / number).to(rewards.dtype)
        squares, number = context.ranks.sum(torch.stack((centred.double().square().sum(), count)))
        std = (squares / (number - 1).clamp(min=1)).sqrt().to(rewards.dtype)
        return divide(centred, std, self.epsilon)
