"""What an advantage estimator is."""

from abc import abstractmethod

from torch import Tensor

from laser_lightning.objective.context import StepContext
from laser_lightning.objective.part import ObjectivePart
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Float


class AdvantageEstimator(ObjectivePart):
    """Says how much better each solution is than what it is compared with.

    It is asked for the (shaped) rewards of the verifier, and in the integrated phase once more for self-rewards, and
    changes nothing of itself then: an estimator that remembers something does so in ``learn``.

    Attributes:
        max_reward: the highest reward that it can be given, shaping included; None for any.
    """

    max_reward: float | None = None

    @abstractmethod
    def __call__(
        self, rewards: Float[Tensor, "P G"], rollout: Rollout, context: StepContext
    ) -> Float[Tensor, "P G"] | Float[Tensor, "P*G R"]:
        """Advantages of a step's solutions.

        Args:
            rewards: [P, G], a row per group.
            rollout: the P * G solutions.
            context: the step.

        Returns:
            [P, G], or one for each response token, [P * G, R].
        """


def rounding_of(max_reward: float) -> float:
    """By how much a reward may differ from ``max_reward`` and still be it: sums of shaped rewards are rounded."""
    return 1e-6 * max(1.0, abs(max_reward))
