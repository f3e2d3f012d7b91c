"""What each solution's error weighs in the self-rewarding loss (ALGORITHM step 5)."""

from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from laser_lightning.objective.part import ObjectivePart, PartAround
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


class ChangedWeights(PartAround, SelfRewardWeights):
    """The weights of another part, changed: it asks for what that one asks for, and remembers what it remembers.

    Args:
        weights: the other part.
    """

    def __init__(self, weights: SelfRewardWeights = ClassBalancedWeights()) -> None:
        super().__init__(weights)
        self.weights = weights


class MixedGroupWeights(ChangedWeights):
    """Groups without both correct and incorrect solutions are left out, of the counts too (Heimdall, arXiv 2504.10337).

    From such groups a head learns how hard the problem is, and not whether the solution is right.

    Args:
        weights: weighs what is left.
    """

    def weigh(self, solutions: StepSolutions) -> Float[Tensor, "P G"]:
        """[P, G]: those of ``weights``, for which the solutions of other groups are not there."""
        return self.weights.weigh(replace(solutions, finished=solutions.finished & solutions.is_mixed[:, None]))


class GroupBalancedWeights(SelfRewardWeights):
    """Every group with correct and incorrect solutions weighs the same, and within it correct and incorrect ones half.

    The others weigh nothing: what a model learns from them is how hard the problem is.
    """

    def weigh(self, solutions: StepSolutions) -> Float[Tensor, "P G"]:
        """[P, G]: 1/(2 M) over the number of the group's solutions of the same class, for M such groups."""
        correct, finished = solutions.rewards > CORRECT_THRESHOLD, solutions.finished
        right, wrong = ((finished & one).sum(dim=1, keepdim=True) for one in (correct, ~correct))
        groups = solutions.context.ranks.sum(solutions.is_mixed.sum())
        of_class = torch.where(correct, right, wrong)
        return (finished & solutions.is_mixed[:, None]) / (2 * groups * of_class).clamp(min=1)


class RepresentedGroupWeights(ChangedWeights):
    """Of a group whose finished solutions are all correct, or all incorrect, the first stands for the others.

    Solutions of a group are drawn alike, so that the loss is the same in expectation as with ``weights`` alone. Such a
    group has no advantage: the update then needs passes over one of its G solutions in place of all.

    Args:
        weights: weighs all solutions, those of a group's class alike.
    """

    def weigh(self, solutions: StepSolutions) -> Float[Tensor, "P G"]:
        """[P, G]: those of ``weights``; in a group of one class their sum at its first finished solution."""
        weights = self.weights.weigh(solutions)
        is_first = solutions.finished & (solutions.finished.cumsum(dim=1) == 1)
        represented = torch.where(is_first, weights.sum(dim=1, keepdim=True), 0.0)
        return torch.where(solutions.is_mixed[:, None], weights, represented)
