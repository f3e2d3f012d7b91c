"""A self-reward head with parameters of its own, on the hidden state, for runs of every kind."""

from torch import Tensor, nn

from laser_lightning import Readings, SelfRewardHead, Supervision


class Probe(SelfRewardHead):
    """A linear probe; the log-prob of a token, which every head names, is one of its inputs.

    Args:
        token: the token.
        loss_weight: weight of the cross-entropy.
    """

    reads_hidden = True

    def __init__(self, token: str = "<|reward|>", loss_weight: float = 0.5) -> None:
        super().__init__({"token": token}, loss_weight)

    def build(self, hidden_size: int) -> None:
        self.linear = nn.Linear(hidden_size, 1)

    def logits(self, readings: Readings) -> Tensor:
        assert readings.hidden is not None
        return self.linear(readings.hidden.float()).squeeze(1) + 0.1 * readings.log_probs[:, 0]

    def score(self, readings: Readings) -> Tensor:
        return self.logits(readings).sigmoid()

    def loss(self, readings: Readings, supervision: Supervision) -> Tensor:
        entropies = nn.functional.binary_cross_entropy_with_logits(
            self.logits(readings), supervision.targets, reduction="none"
        )
        return (supervision.weights * entropies).sum()
