"""What a reward shaper is."""

from abc import abstractmethod

from torch import Tensor

from laser_lightning.objective.context import StepContext
from laser_lightning.objective.part import ObjectivePart
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Bool, Float


class RewardShaper(ObjectivePart):
    """Changes rewards before advantages are made of them, and may leave groups out of them.

    The self-reward is trained towards the verifier's own reward, and measured against it: its verdict is about the
    answer, and a correct answer does not become wrong by being long.
    """

    def highest_reward(self, given: float | None) -> float | None:
        """The highest reward that it can return, in any step; None where that is not known, as by default.

        Args:
            given: the highest reward that it can be given; None where that is not known.
        """
        return None

    def dropped_groups(self, rollout: Rollout, context: StepContext) -> Bool[Tensor, " P"] | None:
        """[P] bool: groups whose advantages are 0, whatever the estimator; None, the default, for none.

        Args:
            rollout: the P groups.
            context: the step.
        """
        return None

    @abstractmethod
    def __call__(self, rewards: Float[Tensor, " N"], rollout: Rollout, context: StepContext) -> Float[Tensor, " N"]:
        """Shaped rewards of a step's solutions.

        Args:
            rewards: [N] so far: the verifier's (or their weighted sum), changed by the shapers in front of this one.
            rollout: the N solutions, with their texts, lengths, verdicts and self-rewards, in groups
                (``rollout.grouped``).
            context: the step.

        Returns:
            [N].
        """
