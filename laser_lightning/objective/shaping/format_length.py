"""A reward of form and length alone, without a verifier's verdict."""

from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.shaping.format import compiled
from laser_lightning.objective.shaping.shaper import RewardShaper
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class FormatLengthReward(RewardShaper):
    """Puts in the place of the reward one that needs no gold answer (Xin et al., arXiv 2505.19439).

    With x = L / L_max and p the turning point, length is worth f = 1 - (1 - x / p)^2 up to p, and
    1 - 2 ((x - p) / (1 - p))^2 behind it. A response with an answer gets (1 or 0 for the pattern + 1) / 2 + f, one
    without gets min(0, f). The verifier says here only whether there is an answer that it can read; the self-reward is
    still trained towards its verdict. The formula is taken from a summary of the paper, and was not compared with code.

    Args:
        pattern: regular expression of the form that an answer has to have, as in ``FormatReward``.
        turning_point: share of sampling.max_response_tokens that is the best length.
    """

    def __init__(self, pattern: str = r"\\boxed\{.+\}", turning_point: float = 0.5) -> None:
        if not 0 < turning_point < 1:
            raise UserError(
                f"FormatLengthReward (advantage.shaping): turning_point is {turning_point}, and must lie between 0 and "
                "1."
            )
        self.pattern, self.turning_point = compiled(pattern, "FormatLengthReward"), turning_point

    def highest_reward(self, given: float | None) -> float | None:
        """2, that of the best form and length, whatever is given."""
        return 2.0

    def __call__(self, rewards: Float[Tensor, " N"], rollout: Rollout, context: StepContext) -> Float[Tensor, " N"]:
        """[N] rewards of form and length (see ``RewardShaper``)."""
        p, share = self.turning_point, rollout.rollouts.response_lengths / context.max_response_tokens
        rising, falling = 1 - (1 - share / p) ** 2, 1 - 2 * ((share - p) / (1 - p)) ** 2
        length = rising.where(share <= p, falling).to(rewards.dtype)
        formed = rewards.new_tensor([self.pattern.search(text) is not None for text in rollout.texts])
        answered = rewards.new_tensor([one.answer is not None for one in rollout.verifications]).bool()
        return ((formed + 1) / 2 + length).where(answered, length.clamp(max=0))
