"""A distance to the reference that does not run away."""

from torch import Tensor
from torch.nn.functional import huber_loss

from laser_lightning import KLDivergence


class HuberKL(KLDivergence):
    """The k2 estimate d^2 / 2 of the divergence, d = log pi_ref - log pi, which goes on as a line where abs(d) > delta.

    Args:
        delta: where the line begins.
    """

    def __init__(self, delta: float = 1.0) -> None:
        self.delta = delta

    def __call__(self, log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
        return huber_loss(log_probs, reference_log_probs, reduction="none", delta=self.delta)
