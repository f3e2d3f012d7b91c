"""The KL divergence to the frozen reference, per token."""

from abc import abstractmethod
from typing import Literal

from torch import Tensor

from laser_lightning.objective.part import ObjectivePart
from laser_lightning.shapes import Float

KLEstimator = Literal["k1", "k2", "k3"]


class KLDivergence(ObjectivePart):
    """Says how far the policy is from the frozen policy of before training, at each token."""

    needs_reference = True

    @abstractmethod
    def __call__(
        self, log_probs: Float[Tensor, "B R"], reference_log_probs: Float[Tensor, "B R"]
    ) -> Float[Tensor, "B R"]:
        """The divergence at each token.

        Args:
            log_probs: [B, R] of the policy, with gradient.
            reference_log_probs: [B, R] of the reference.

        Returns:
            [B, R], with gradient.
        """


class KLEstimate(KLDivergence):
    """Estimates KL(pi || pi_ref) from tokens drawn from pi (J. Schulman, "Approximating KL divergence", 2020).

    With d = log pi_ref - log pi: k1 = -d is unbiased and of high variance, and its gradient as a loss is zero in
    expectation; k2 = d^2 / 2 is biased and its gradient is that of the true KL; k3 = exp(d) - 1 - d is unbiased and
    never negative.

    Args:
        estimator: which one.
    """

    def __init__(self, estimator: KLEstimator = "k3") -> None:
        self.estimator = estimator

    def __call__(
        self, log_probs: Float[Tensor, "B R"], reference_log_probs: Float[Tensor, "B R"]
    ) -> Float[Tensor, "B R"]:
        """[B, R] (see ``KLDivergence``)."""
        difference = reference_log_probs - log_probs
        if self.estimator == "k1":
            return -difference
        if self.estimator == "k2":
            return difference.square() / 2
        return difference.exp() - 1 - difference
