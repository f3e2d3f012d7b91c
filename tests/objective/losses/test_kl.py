"""The KL estimators by hand, and their expectations over a distribution that can be enumerated."""

import pytest
import torch
from torch import Tensor

from laser_lightning.losses import KLEstimator, kl_estimate

LOGITS = torch.tensor([[0.3, -1.2, 0.9]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64).log()


def true_kl(log_probs: Tensor) -> Tensor:
    return (log_probs.exp() * (log_probs - REFERENCE)).sum()


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        # pi = 1/2, pi_ref = 1/4: d = ln(1/2) = -0.693147; pi = 1/4, pi_ref = 1/2: d = 0.693147
        ("k1", [0.693147, -0.693147, 0.0]),  # -d
        ("k2", [0.240227, 0.240227, 0.0]),  # d^2 / 2
        ("k3", [0.193147, 0.306853, 0.0]),  # 1/2 - 1 + 0.693147 and 2 - 1 - 0.693147
    ],
)
def test_by_hand(estimator: KLEstimator, expected: list[float]) -> None:
    log_probs, reference = torch.tensor([[0.5, 0.25, 0.3]]).log(), torch.tensor([[0.25, 0.5, 0.3]]).log()
    values = kl_estimate(log_probs, reference, estimator)
    torch.testing.assert_close(values, torch.tensor([expected]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_two_of_them_are_never_negative(estimator: KLEstimator) -> None:
    log_probs, reference = -10 * torch.rand(2, 1, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = kl_estimate(log_probs, reference, estimator)
    assert bool((values > 0).all())
    assert bool((kl_estimate(log_probs, log_probs, estimator) == 0).all())


def test_expectations_over_all_tokens() -> None:
    log_probs = LOGITS.log_softmax(1)
    means = {name: (log_probs.exp() * kl_estimate(log_probs, REFERENCE, name)).sum() for name in ("k1", "k2", "k3")}
    torch.testing.assert_close(means["k1"], true_kl(log_probs))
    torch.testing.assert_close(means["k3"], true_kl(log_probs))
    assert abs(means["k2"] - true_kl(log_probs)) > 1e-3  # biased


def expected_gradient(estimator: KLEstimator) -> Tensor:
    """Mean over all tokens of the gradient that one sampled token gives: the sampling itself has none."""
    logits = LOGITS.clone().requires_grad_()
    log_probs = logits.log_softmax(1)
    mean = (log_probs.detach().exp() * kl_estimate(log_probs, REFERENCE, estimator)).sum()
    return torch.autograd.grad(mean, logits)[0]


def test_expected_gradients_over_all_tokens() -> None:
    logits = LOGITS.clone().requires_grad_()
    (truth,) = torch.autograd.grad(true_kl(logits.log_softmax(1)), logits)
    assert truth.norm() > 0.1
    torch.testing.assert_close(expected_gradient("k2"), truth)
    torch.testing.assert_close(expected_gradient("k1"), torch.zeros(1, 3, dtype=torch.float64))
    # k3 as a loss follows pi - pi_ref, the gradient of KL(pi_ref || pi): by hand, sum over tokens of
    # pi * (1 - pi_ref / pi) * d log pi = sum of (pi - pi_ref) * (one-hot - pi) = pi - pi_ref.
    torch.testing.assert_close(expected_gradient("k3"), LOGITS.softmax(1) - REFERENCE.exp())
