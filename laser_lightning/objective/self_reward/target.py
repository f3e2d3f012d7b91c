"""What the self-rewarding loss trains a solution's self-reward towards."""

from abc import abstractmethod

from torch import Tensor

from laser_lightning.objective.part import ObjectivePart
from laser_lightning.objective.self_reward.solutions import StepSolutions
from laser_lightning.shapes import Float


class SelfRewardTarget(ObjectivePart):
    """Numbers that the self-rewards of solutions are trained towards, fixed before the first backward pass.

    Attributes:
        needs_groups: whether it needs the rewards of all solutions that the policy drew for a problem.
        moves_with_scores: whether it is moved along with the scores of the rollout, so that a squared error has the
            gradient that it wants; it then needs these scores, and a head that ``squares_errors``.
    """

    needs_groups: bool = False
    moves_with_scores: bool = False

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
