"""Rewards compared with their group, in units of the spread of all rewards (Lite PPO)."""

import torch
from torch import Tensor

from laser_lightning.objective.advantages.estimator import AdvantageEstimator
from laser_lightning.objective.advantages.groups import centre, check_epsilon, divide
from laser_lightning.objective.context import StepContext
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class LitePPO(AdvantageEstimator):
    """A = (r - group mean) / (std + epsilon), with the sample standard deviation of all rewards of the round.

    Lite PPO (Tricks or Traps?, arXiv 2508.08221): together with the mean over all tokens (``update.aggregation:
    token_mean``) it is all that the method takes. ``BatchNormalized`` with a baseline divides by the standard
    deviation of the distances from the group's mean, which is smaller: between the groups there is no spread left.

    Args:
        epsilon: added to the standard deviation.
    """

    def __init__(self, epsilon: float = 1e-6) -> None:
        check_epsilon(epsilon)
        self.epsilon = epsilon

    def __call__(self, rewards: Float[Tensor, "P G"], rollout: Rollout, context: StepContext) -> Float[Tensor, "P G"]:
        """[P, G] (see ``AdvantageEstimator``); 0 in groups whose rewards are all equal."""
        centred, values = centre(rewards), rewards.double()
        count = torch.tensor(float(rewards.numel()), dtype=torch.float64, device=rewards.device)
        total, number = context.ranks.sum(torch.stack((values.sum(), count)))
        squares = context.ranks.sum((values - total / number).square().sum())
        std = (squares / (number - 1).clamp(min=1)).sqrt().to(rewards.dtype)
        return divide(centred, std, self.epsilon)
