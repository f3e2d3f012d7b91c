"""A soft penalty for responses that come close to the length limit (DAPO's overlong shaping)."""

from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.shaping.shaper import RewardShaper
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class OverlongPenalty(RewardShaper):
    """Takes from the reward what the last tokens before the length limit cost.

    The penalty is linear over the buffer, and whole at the limit (DAPO, arXiv 2503.14476, equation 13).

    Args:
        buffer_share: the penalty grows over this last part of sampling.max_response_tokens; DAPO's is 4,096 of 20,480.
        penalty: what a response at the limit loses. DAPO's rewards are 1 and -1 and its penalty is 1; with rewards
            of 1 and 0 the same share is 0.5.
    """

    def __init__(self, buffer_share: float = 0.2, penalty: float = 0.5) -> None:
        if not 0 < buffer_share <= 1 or not penalty > 0:
            raise UserError(
                f"OverlongPenalty (advantage.shaping): buffer_share is {buffer_share} and penalty {penalty}; "
                "buffer_share must be above 0 and at most 1, and penalty above 0."
            )
        self.buffer_share, self.penalty = buffer_share, penalty

    def highest_reward(self, given: float | None) -> float | None:
        """What is given: it only takes away."""
        return given

    def __call__(self, rewards: Float[Tensor, " N"], rollout: Rollout, context: StepContext) -> Float[Tensor, " N"]:
        """[N] rewards less the penalty of length (see ``RewardShaper``)."""
        limit = context.max_response_tokens
        buffer = self.buffer_share * limit
        share = ((rollout.rollouts.response_lengths - (limit - buffer)) / buffer).clamp(min=0)
        return rewards - self.penalty * share.to(rewards.dtype)
