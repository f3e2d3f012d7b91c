"""Estimators of the KL divergence to the reference, per token (J. Schulman, "Approximating KL divergence", 2020)."""

from typing import Literal

from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(log_probs: Tensor, reference_log_probs: Tensor, estimator: KLEstimator) -> Tensor:
    """Estimate KL(pi || pi_ref) from tokens drawn from pi.

    With d = log pi_ref - log pi: k1 = -d is unbiased and of high variance, and its gradient as a loss is zero in
    expectation; k2 = d^2 / 2 is biased and its gradient is that of the true KL; k3 = exp(d) - 1 - d is unbiased and
    never negative.

    Args:
        log_probs: [B, R] of the policy, with gradient.
        reference_log_probs: [B, R] of the reference.
        estimator: which one.

    Returns:
        [B, R].
    """
    difference = reference_log_probs - log_probs
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    return difference.exp() - 1 - difference
