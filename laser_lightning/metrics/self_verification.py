"""How well the self-reward tells correct solutions from incorrect ones."""

import math

import torch
from torch import Tensor

from laser_lightning.metrics.base import ExactMetric
from laser_lightning.metrics.functional import auroc, brier_score, expected_calibration_error, harmonic_mean
from laser_lightning.shapes import Bool, Float, Real


class SelfVerification(ExactMetric):
    """Accuracies, F1, AUROC and calibration of the verdict ``self_reward > threshold``.

    F1 is the harmonic mean of the accuracy on correct and the accuracy on incorrect solutions (LaSeR, arXiv
    2510.14943, after ProcessBench, arXiv 2412.06559), not the F1 of precision and recall.

    ``compute`` returns a dict of scalars:

    - ``accuracy_on_correct``: share of correct solutions with the verdict "correct"; NaN if there are none.
    - ``accuracy_on_incorrect``: share of incorrect ones with the verdict "incorrect"; NaN if there are none.
    - ``f1``: harmonic mean of the two; 0 if one class is absent, NaN if both are.
    - ``auroc``: probability that a correct solution scores above an incorrect one, ties count one half; NaN
      if either class is absent.
    - ``ece``: expected calibration error of the self-reward clamped to [0, 1]; NaN without solutions.
    - ``brier``: Brier score, the mean squared error of the self-reward clamped to [0, 1]; NaN without solutions.
    - ``correct``, ``incorrect``: number of solutions of each class, int64.

    All of them mix what the score knows of problems with what it knows of their solutions; ``WithinProblems`` has the
    latter alone.

    A NaN says "undefined": there was nothing to measure, and there is nothing to plot.

    Args:
        threshold: a self-reward strictly above it is the verdict "correct".
        num_bins: number of bins of equal width for the expected calibration error.
    """

    def __init__(self, threshold: float = 0.5, num_bins: int = 10) -> None:
        super().__init__()
        if not math.isfinite(threshold):
            raise ValueError(f"threshold must be a finite number, but is {threshold}; the paper uses 0.5.")
        if num_bins < 1:
            raise ValueError(f"num_bins must be at least 1, but is {num_bins}; 10 is usual.")
        self.threshold = threshold
        self.num_bins = num_bins
        self.add_list("self_rewards", torch.float32)
        # int64 rather than bool: not every backend gathers booleans.
        self.add_list("correct", torch.int64)

    def update(self, self_rewards: Real[Tensor, " N"], rewards: Real[Tensor, " N"]) -> None:
        """Add solutions.

        Args:
            self_rewards: [N], scores as they are, not clamped.
            rewards: [N], the verifier's rewards; a solution is correct if its reward is above 0.5.

        Raises:
            ValueError: if the shapes differ or an entry is NaN.
        """
        self.check_columns(self_rewards=self_rewards, rewards=rewards)
        self.check_numbers(self_rewards=self_rewards, rewards=rewards)
        self.append("self_rewards", self_rewards)
        self.append("correct", rewards > 0.5)

    def compute(self) -> dict[str, Real[Tensor, ""]]:
        """The values named above, over all ranks."""
        scores, correct = self._rows()
        verdicts = scores > self.threshold
        num_correct, num_incorrect = correct.sum(), (~correct).sum()
        accuracy_on_correct = (verdicts & correct).sum() / num_correct
        accuracy_on_incorrect = (~verdicts & ~correct).sum() / num_incorrect
        f1 = harmonic_mean(accuracy_on_correct.nan_to_num(0), accuracy_on_incorrect.nan_to_num(0))
        return {
            "accuracy_on_correct": accuracy_on_correct,
            "accuracy_on_incorrect": accuracy_on_incorrect,
            "f1": f1 if len(scores) else torch.full_like(f1, torch.nan),
            "auroc": auroc(scores, correct),
            "ece": expected_calibration_error(scores, correct, self.num_bins),
            "brier": brier_score(scores, correct),
            "correct": num_correct,
            "incorrect": num_incorrect,
        }

    def curves(self) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
        """What a histogram, a ROC or a reliability curve is drawn from; gathers, so call it on every rank.

        Returns:
            The self-rewards [N], float32, not clamped, and whether each solution is correct [N], bool.
        """
        with self.gathered():
            return self._rows()

    def _rows(self) -> tuple[Tensor, Tensor]:
        return self.held("self_rewards"), self.held("correct").bool()
