"""How advantages are computed: the estimator, the mixing with self-rewards, and the shaping of rewards before both."""

from dataclasses import dataclass, field

from torch import Tensor

from laser_lightning.arguments import takes_old_fields
from laser_lightning.errors import UserError
from laser_lightning.objective.advantages.estimator import AdvantageEstimator, rounding_of
from laser_lightning.objective.advantages.group_relative import GroupRelative
from laser_lightning.objective.advantages.mixing import AdvantageMixing, SelfRewardMixing
from laser_lightning.objective.advantages.record import Advantages
from laser_lightning.objective.context import StepContext
from laser_lightning.objective.part import ObjectivePart
from laser_lightning.objective.shaping.shaper import RewardShaper
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


@takes_old_fields("advantage")
@dataclass(frozen=True)
class AdvantageSettings:
    """How advantages are computed.

    Args:
        estimator: what a reward is compared with: its group (``GroupRelative``, GRPO), the others of its group
            (``LeaveOneOut``, RLOO), or all solutions of the round (``BatchNormalized``, REINFORCE++).
        mixing: how self-rewards enter in the integrated phase; null for not at all.
        shaping: what changes rewards before advantages are made of them, one after the other; the self-reward is
            trained towards the verifier's own.
    """

    estimator: AdvantageEstimator = GroupRelative()
    mixing: AdvantageMixing | None = SelfRewardMixing()
    shaping: list[RewardShaper] = field(default_factory=list)

    def __post_init__(self) -> None:
        most = self.estimator.max_reward
        if most is None:
            return
        # Below 1 the verifier's rewards are others than right and wrong, and how high they are is not known.
        highest = 1.0 if most >= 1 else None
        for shaper in self.shaping:
            highest = shaper.highest_reward(highest)
        if highest is not None and highest > most + rounding_of(most):
            names = ", ".join(type(shaper).__name__ for shaper in self.shaping)
            raise UserError(
                f"advantage.estimator.max_reward is {most:.10g}, and with advantage.shaping ({names}) a reward can be "
                f"{highest:.10g}: set advantage.estimator.max_reward to {highest:.10g}."
            )

    def parts(self) -> dict[str, ObjectivePart]:
        """The parts by their keys below ``model``."""
        shapers = {f"advantage.shaping.{number}": shaper for number, shaper in enumerate(self.shaping)}
        mixing = {} if self.mixing is None else {"advantage.mixing": self.mixing}
        return {"advantage.estimator": self.estimator, **mixing, **shapers}

    def shape_rewards(self, rollout: Rollout, context: StepContext) -> Float[Tensor, " N"]:
        """[N] rewards that advantages are made of: the verifier's or their weighted sum, shaped."""
        rewards = rollout.policy_rewards
        for shaper in self.shaping:
            rewards = shaper(rewards, rollout, context)
        return rewards

    def compute_advantages(self, rollout: Rollout, context: StepContext, mixes: bool) -> Advantages:
        """Advantages of a step's solutions.

        Args:
            rollout: the solutions, in their groups.
            context: the step.
            mixes: whether the phase lets self-rewards have a say.
        """
        found = self._of_all_groups(rollout, context, mixes)
        for shaper in self.shaping:
            if (dropped := shaper.dropped_groups(rollout, context)) is not None:
                found = found.without(dropped)
        return found

    def _of_all_groups(self, rollout: Rollout, context: StepContext, mixes: bool) -> Advantages:
        """Those of groups that a shaper drops included."""
        rewards = rollout.grouped(self.shape_rewards(rollout, context))

        def estimate(values: Tensor) -> Tensor:
            return self.estimator(values, rollout, context)

        if not mixes or self.mixing is None:
            return Advantages.of(estimate(rewards), rewards)
        return self.mixing(rewards, rollout.grouped(rollout.self_rewards), estimate, rollout, context)
