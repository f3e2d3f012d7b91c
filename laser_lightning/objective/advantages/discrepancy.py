"""Advantages that weigh more where the policy misjudges its solution (CREDO)."""

from typing import Literal

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.advantages.mixing import AdvantageMixing, Estimate, SelfRewardMixing
from laser_lightning.objective.advantages.record import Advantages
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.part import PartAround
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD, is_judged
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class DiscrepancyWeighting(PartAround, AdvantageMixing):
    """A <- A * clip(1 + kappa * (d - mean d), low, high), with d = abs(a - c).

    a is 1 for a correct solution and 0 for an incorrect one, by the verifier's own reward, and c the self-reward,
    clamped to [0, 1]. Truncated solutions, and others whose score is not known, have no confidence: they keep their
    advantage, and no mean counts them.

    CREDO (arXiv 2609.34857, "weighting rollouts by how far confidence and outcome disagree"). The formula with kappa
    0.25 on mathematics is from a summary of the paper, whose text was not at hand; over which solutions the mean is
    taken is not said there, so that ``mean_over`` chooses.

    Args:
        kappa: how much more a misjudged solution weighs.
        low: smallest weight.
        high: largest weight.
        mean_over: the solutions of a group, or all of the round on all ranks.
        mixing: makes the advantages that are weighed; with a tau of 0 they are the verifier's alone, as in CREDO.
    """

    def __init__(
        self,
        kappa: float = 0.25,
        low: float = 0.5,
        high: float = 2.0,
        mean_over: Literal["group", "round"] = "group",
        mixing: AdvantageMixing = SelfRewardMixing(tau=0.0),
    ) -> None:
        if kappa < 0:
            raise UserError(f"advantage.mixing.kappa is {kappa}, and must be 0 or more.")
        if not 0 <= low <= 1 <= high:
            raise UserError(f"advantage.mixing.low is {low} and high is {high}: low <= 1 <= high, with low 0 or more.")
        super().__init__(mixing)
        self.kappa, self.low, self.high, self.mean_over, self.mixing = kappa, low, high, mean_over, mixing

    def __call__(
        self,
        rewards: Float[Tensor, "P G"],
        self_rewards: Float[Tensor, "P G"],
        estimate: Estimate,
        rollout: Rollout,
        context: StepContext,
    ) -> Advantages:
        """The weighed advantages (see ``AdvantageMixing``); groups in which a weight counts are mixed ones."""
        found = self.mixing(rewards, self_rewards, estimate, rollout, context)
        weights = self.weigh(self_rewards, rollout, context).flatten()
        values = found.values * (weights if found.values.ndim == 1 else weights[:, None])
        changed = (values != found.values).reshape(len(rewards), -1).any(dim=1)
        return Advantages(values, found.mixed_groups | changed)

    def weigh(self, self_rewards: Float[Tensor, "P G"], rollout: Rollout, context: StepContext) -> Float[Tensor, "P G"]:
        """[P, G] what the advantage of each solution is multiplied with; all ranks call it together.

        Args:
            self_rewards: [P, G], not clamped.
            rollout: the P * G solutions.
            context: the step.
        """
        judged = rollout.grouped(is_judged(rollout))
        correct = rollout.grouped(rollout.rewards) > CORRECT_THRESHOLD
        distances = (correct.double() - self_rewards.double().clamp(0, 1)).abs().where(judged, 0.0)
        sums = torch.stack((distances.sum(dim=1), judged.double().sum(dim=1)))
        if self.mean_over == "round":
            sums = context.ranks.sum(sums.sum(dim=1, keepdim=True))
        mean = (sums[0] / sums[1].clamp(min=1))[:, None]
        weights = (1 + self.kappa * (distances - mean)).clamp(self.low, self.high)
        return weights.where(judged, 1.0).to(self_rewards.dtype)
