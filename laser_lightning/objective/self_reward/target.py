"""What the self-rewarding loss trains a solution's self-reward towards."""

from abc import abstractmethod

from torch import Tensor

from laser_lightning.objective.part import ObjectivePart
from laser_lightning.objective.self_reward.solutions import StepSolutions
from laser_lightning.shapes import Float


class SelfRewardTarget(ObjectivePart):
    """Numbers that the self-rewards of solutions are trained towards, fixed before the first backward pass."""

    @abstractmethod
    def aim(self, solutions: StepSolutions) -> Float[Tensor, "P G"]:
        """Choose the targets; called once for each optimizer step, by all ranks together.

        Args:
            solutions: those of the step on this rank.

        Returns:
            [P, G] float32. Heads that train towards "correct" or "incorrect" take those above 0.5 for correct.
        """


class VerifierTarget(SelfRewardTarget):
    """The verifier's own reward, before any shaping (LaSeR, arXiv 2510.14943)."""

    def aim(self, solutions: StepSolutions) -> Float[Tensor, "P G"]:
        """[P, G] the rewards."""
        return solutions.rewards
