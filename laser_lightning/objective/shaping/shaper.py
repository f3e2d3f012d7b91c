"""What a reward shaper is."""

from abc import abstractmethod

from torch import Tensor

from laser_lightning.objective.context import StepContext
from laser_lightning.objective.part import ObjectivePart
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class RewardShaper(ObjectivePart):
    """Changes rewards before advantages are made of them.

    The self-reward is trained towards the verifier's own reward, and measured against it: its verdict is about the
    answer, and a correct answer does not become wrong by being long.
    """

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
