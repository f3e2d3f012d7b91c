"""Confidence from two tokens: the head of CREDO (arXiv 2609.34857), read where LaSeR reads its score."""

from torch import Tensor

from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
from laser_lightning.objective.self_reward.solutions import Supervision
from laser_lightning.objective.self_reward.target import SelfRewardTarget, VerifierTarget
from laser_lightning.objective.self_reward.weights import ClassBalancedWeights, SelfRewardWeights
from laser_lightning.shapes import Float


class TwoTokenSelfReward(SelfRewardHead):
    """Reads how much more the token behind ``<eos>`` is z_high than z_low.

    The self-reward is r_s = sigmoid(l_high - l_low), of the logits of two reserved tokens, and the loss its squared
    error. The rest of the vocabulary cancels out: there is no reference, and nothing to calibrate. CREDO reads the same
    number in a slot behind a written analysis; here it costs no token.

    Args:
        high_token: z_high, one token of the vocabulary; normal text had better not contain it.
        low_token: z_low, another such token.
        loss_weight: weight of the squared error; 0 trains plain GRPO, with no self-rewards in the advantages either,
            and still reports the score.
        class_weights: false is version 0.1's word for ``weights: EqualWeights``.
        weights: what each solution's error weighs in the loss: correct and incorrect ones half each, however many there
            are, or another part.
        target: what each self-reward is trained towards: the verifier's reward, or another part.
    """

    squares_errors = True

    def __init__(
        self,
        high_token: str,
        low_token: str,
        loss_weight: float = 0.1,
        class_weights: bool = True,
        weights: SelfRewardWeights = ClassBalancedWeights(),
        target: SelfRewardTarget = VerifierTarget(),
    ) -> None:
        tokens = {"high_token": high_token, "low_token": low_token}
        super().__init__(tokens, loss_weight, class_weights, weights, target)

    def score(self, readings: Readings) -> Float[Tensor, " N"]:
        """The self-reward r_s = sigmoid(l_high - l_low).

        Args:
            readings: log-probs [N, 2] of z_high and z_low, whose difference is that of the logits.

        Returns:
            [N] float32 between 0 and 1, NaN where the log-probs are (truncated solutions).
        """
        high, low = readings.log_probs.float().unbind(dim=1)
        return (high - low).sigmoid()

    def loss(self, readings: Readings, supervision: Supervision) -> Float[Tensor, ""]:
        """The weighted squared error between self-reward and target, summed over these solutions.

        Args:
            readings: as in ``score``, with gradient; those of weight 0 may be NaN.
            supervision: targets and weights.
        """
        targets, weights = supervision
        log_probs = readings.log_probs.where(weights[:, None] > 0, 0.0)
        errors = self.score(readings._replace(log_probs=log_probs)) - targets
        return (weights * errors.square()).sum()

    def extra_repr(self) -> str:
        """Settings in the module's printout."""
        high, low = self.tokens.values()
        return f"high_token={high!r}, low_token={low!r}, loss_weight={self.loss_weight}"
