"""What each solution's error weighs in the self-rewarding loss (ALGORITHM step 5)."""

from abc import abstractmethod

from torch import Tensor

from laser_lightning.objective.part import ObjectivePart
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD, StepSolutions, class_counts
from laser_lightning.shapes import Float


class SelfRewardWeights(ObjectivePart):
    """Weights of solutions in the self-rewarding loss, which is the weighted sum of their errors.

    They are fixed before the first backward pass, with every count over the whole optimizer step on all ranks, so that
    micro-batches and ranks change results by rounding alone.
    """

    @abstractmethod
    def weigh(self, solutions: StepSolutions) -> Float[Tensor, "P G"]:
        """Weigh solutions; called once for each optimizer step, by all ranks together.

        Args:
            solutions: those of the step on this rank. A rank may have no finished or no correct one.

        Returns:
            [P, G] float32, 0 or more. For a loss whose size does not depend on the number of solutions they add up to
            a constant over all ranks. Those of truncated solutions are taken as 0.
        """


class ClassBalancedWeights(SelfRewardWeights):
    """Correct and incorrect solutions weigh half each, however many there are (LaSeR, arXiv 2510.14943).

    With weights N/(2 N_correct) and N/(2 N_incorrect) the weighted mean over N finished solutions gives a correct one
    1/(2 N_correct) and an incorrect one 1/(2 N_incorrect). An absent class contributes nothing.
    """

    def weigh(self, solutions: StepSolutions) -> Float[Tensor, "P G"]:
        """[P, G]: 1/(2 N_correct) or 1/(2 N_incorrect)."""
        counts = solutions.context.ranks.sum(class_counts(solutions.rewards, solutions.finished))
        correct = (solutions.rewards > CORRECT_THRESHOLD).long()
        return solutions.finished / (2 * counts).clamp(min=1)[correct]


class EqualWeights(SelfRewardWeights):
    """Every finished solution weighs the same."""

    def weigh(self, solutions: StepSolutions) -> Float[Tensor, "P G"]:
        """[P, G]: 1/N for N finished solutions on all ranks."""
        return solutions.finished / solutions.context.ranks.sum(solutions.finished.sum()).clamp(min=1)
