"""How many judging updates there are, on what, and what holds the policy meanwhile."""

from dataclasses import dataclass

from laser_lightning.errors import UserError
from laser_lightning.objective.judging.hold import PolicyHold, SampledCrossEntropy
from laser_lightning.objective.part import ObjectivePart
from laser_lightning.objective.self_reward.weights import GroupBalancedWeights, SelfRewardWeights


@dataclass(frozen=True)
class JudgingSettings:
    """Updates of the self-reward alone behind each round's own, by replay of the last rounds' solutions.

    An update draws groups that have correct and incorrect solutions, and of each as many correct as incorrect ones. Its
    loss is the self-rewarding loss, at weight 1, and the hold. It is a step of the run's optimizer, whose moments it
    shares, and no step of ``trainer.max_steps``, phases or schedules.

    Args:
        updates: judging updates behind each round.
        buffer_rounds: rounds whose solutions are replayed, the latest included.
        groups_per_update: groups that an update draws, over all processes; null for as many as a round has.
        hold: holds the policy where it is, which the self-rewarding loss alone would ruin; null for nothing.
        learning_rate: the rate where the optimizer's is ``optimizer.learning_rate``, with the same warm-up and
            schedule; null for the optimizer's own.
        weights: what each solution's error weighs in a judging update.
    """

    updates: int = 2
    buffer_rounds: int = 12
    groups_per_update: int | None = None
    hold: PolicyHold | None = SampledCrossEntropy()
    learning_rate: float | None = None
    weights: SelfRewardWeights = GroupBalancedWeights()

    def __post_init__(self) -> None:
        for name in ("updates", "buffer_rounds", "groups_per_update"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"update.judging.{name} is {value}, and must be at least 1.")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise UserError(f"update.judging.learning_rate is {self.learning_rate}, and must be above 0.")

    def parts(self) -> dict[str, ObjectivePart]:
        """The parts, by their keys below ``model``."""
        hold = {} if self.hold is None else {"update.judging.hold": self.hold}
        return {"update.judging.weights": self.weights, **hold}
