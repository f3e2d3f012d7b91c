"""The answer whose solutions score highest in the mean."""

from torch import Tensor

from laser_lightning.metrics.votes.candidates import Candidates
from laser_lightning.metrics.votes.rule import VoteRule
from laser_lightning.shapes import Float


class MeanScoreVote(VoteRule):
    """The answer with the highest mean of its solutions' self-rewards, clamped to [0, 1], however many give it.

    An answer that one solution gives stands as high as that solution scores: ``PessimisticVote`` trusts it less.
    """

    name = "mean_score"

    def standings(self, candidates: Candidates) -> Float[Tensor, " N"]:
        """[N] float64, the mean clamped self-reward of each one's answer."""
        return candidates.mean_by_answer(candidates.self_rewards.clamp(0, 1))
