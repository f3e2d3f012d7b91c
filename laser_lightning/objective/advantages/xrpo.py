"""Larger advantages for correct solutions that the policy finds unlikely (XRPO)."""

from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.advantages.estimator import AdvantageEstimator
from laser_lightning.objective.advantages.group_relative import GroupRelative
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.part import PartAround
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class NoveltySharpening(PartAround, AdvantageEstimator):
    """A + min(max(lambda (1 - eta), 0), kappa A) for correct solutions with A > 0, eta = exp(l - mean l of the group).

    l is the mean log-prob of a solution's tokens, as the engine sampled them: a correct solution that is less likely
    than its group gains. A solution without a trained token has no l: it gains nothing, and the mean leaves it out.
    XRPO (arXiv 2510.06672, novelty-guided advantage sharpening), with its lambda and kappa; its allocation of rollouts
    and its examples in the prompt are other matters.

    Args:
        novelty: lambda, what a solution gains that the policy finds impossible.
        kappa: the largest gain, as a share of the advantage.
        estimator: makes the advantages that are sharpened.
    """

    def __init__(
        self, novelty: float = 2.5, kappa: float = 0.5, estimator: AdvantageEstimator = GroupRelative()
    ) -> None:
        if novelty < 0 or kappa < 0:
            raise UserError(f"advantage.estimator.novelty is {novelty} and kappa is {kappa}: both must be 0 or more.")
        super().__init__(estimator)
        self.novelty, self.kappa, self.estimator = novelty, kappa, estimator
        self.max_reward = estimator.max_reward

    def __call__(
        self, rewards: Float[Tensor, "P G"], rollout: Rollout, context: StepContext
    ) -> Float[Tensor, "P G"] | Float[Tensor, "P*G R"]:
        """The sharpened advantages, in the inner estimator's shape (see ``AdvantageEstimator``)."""
        advantages = self.estimator(rewards, rollout, context)
        mask = rollout.rollouts.trained_mask
        totals = rollout.rollouts.sampling_log_probs.where(mask, 0.0).sum(dim=1)
        lengths = mask.sum(dim=1)
        likelihoods, known = (totals / lengths.clamp(min=1)).view(rewards.shape), (lengths > 0).view(rewards.shape)
        # Unknown ones are 0 above.
        means = likelihoods.sum(dim=1, keepdim=True) / known.sum(dim=1, keepdim=True).clamp(min=1)
        novelties = 1 - (likelihoods - means).exp()
        correct = rollout.rewards.view(rewards.shape) > CORRECT_THRESHOLD
        gains = (self.novelty * novelties).clamp(min=0) * (correct & known)
        if advantages.shape != rewards.shape:  # one for each token
            gains = gains.view(-1, 1)
        return advantages + gains.minimum(self.kappa * advantages.clamp(min=0))
