"""Rewards compared with those of their group and one perfect solution that nobody found (NGRPO)."""

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.advantages.estimator import AdvantageEstimator, rounding_of
from laser_lightning.objective.advantages.groups import check_epsilon
from laser_lightning.objective.context import StepContext
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class NGRPO(AdvantageEstimator):
    """A = (r - mean) / (std + epsilon) over the group and a virtual solution of the highest reward.

    A group in which all are wrong is pushed away from, each solution by 1 / sqrt(G + 1), where GRPO learns nothing; in
    one in which all are right A is 0. NGRPO (arXiv 2509.18851, advantage calibration), with the sample standard
    deviation and the epsilon of the authors' code. Its asymmetric clipping is ``ClippedPolicyLoss`` with ``clip_low``
    0.16 and ``clip_high`` 0.24; that the authors draw other groups for those that are all right is left out, since
    these have no gradient here either.

    Args:
        max_reward: the highest reward that a solution can have, shaping included.
        epsilon: added to the standard deviation.
    """

    def __init__(self, max_reward: float = 1.0, epsilon: float = 1e-6) -> None:
        check_epsilon(epsilon)
        self.max_reward: float = max_reward
        self.epsilon = epsilon

    def __call__(self, rewards: Float[Tensor, "P G"], rollout: Rollout, context: StepContext) -> Float[Tensor, "P G"]:
        """[P, G] (see ``AdvantageEstimator``); 0 in groups whose rewards are all the highest.

        Raises:
            UserError: if a reward is above the highest.
        """
        above, rounding = rewards - self.max_reward, rounding_of(self.max_reward)
        if bool((above > rounding).any()):
            raise UserError(
                f"A reward is {rewards.max().item():.4g}, and advantage.estimator.max_reward, the highest that there "
                f"can be, is {self.max_reward:.4g}: raise it."
            )
        rewards = rewards.masked_fill(above.abs() <= rounding, self.max_reward)
        extended = torch.cat((rewards, torch.full_like(rewards[:, :1], self.max_reward)), dim=1)
        mean, std = extended.mean(dim=1, keepdim=True), extended.std(dim=1, keepdim=True)
        # Exactly 0 where all are the highest, whatever the mean was rounded to.
        perfect = (rewards == self.max_reward).all(dim=1, keepdim=True)
        return ((rewards - mean) / (std + self.epsilon)).masked_fill(perfect, 0.0)
