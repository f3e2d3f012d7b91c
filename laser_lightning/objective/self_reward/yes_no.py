"""Self-verification learned by cross-entropy: the supervised variant that LaSeR compares with (arXiv 2510.14943)."""

from torch import Tensor

from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD, Supervision
from laser_lightning.objective.self_reward.target import SelfRewardTarget, VerifierTarget
from laser_lightning.objective.self_reward.weights import ClassBalancedWeights, SelfRewardWeights
from laser_lightning.shapes import Float


class YesNoSelfReward(SelfRewardHead):
    """Trains the token behind ``<eos>`` to be z_yes for correct solutions and z_no for incorrect ones.

    The self-reward is the probability r_s = pi(z_yes given x, y), and the loss the cross-entropy of the right one of
    the two tokens, both over the whole vocabulary. There is no reference, and nothing to calibrate.

    Args:
        yes_token: z_yes, one token of the vocabulary; normal text had better not contain it.
        no_token: z_no, another such token.
        loss_weight: weight of the cross-entropy; 0 trains plain GRPO, with no self-rewards in the advantages either,
            and still reports the score.
        class_weights: false is version 0.1's word for ``weights: EqualWeights``.
        weights: what each solution's error weighs in the loss: correct and incorrect ones half each, however many there
            are, or another part.
        target: what says which token is the right one, z_yes above 0.5: the verifier's reward, or another part.
    """

    tokens_in_score = 1

    def __init__(
        self,
        yes_token: str,
        no_token: str,
        loss_weight: float = 0.1,
        class_weights: bool = True,
        weights: SelfRewardWeights = ClassBalancedWeights(),
        target: SelfRewardTarget = VerifierTarget(),
    ) -> None:
        tokens = {"yes_token": yes_token, "no_token": no_token}
        super().__init__(tokens, loss_weight, class_weights, weights, target)

    def score(self, readings: Readings) -> Float[Tensor, " N"]:
        """The self-reward r_s = pi(z_yes given x, y).

        Args:
            readings: log pi(z_yes given x, y) of N solutions.

        Returns:
            [N] float32 probabilities, NaN where the log-probs are (truncated solutions).
        """
        return readings.log_probs[:, 0].float().exp()

    def loss(self, readings: Readings, supervision: Supervision) -> Float[Tensor, ""]:
        """The weighted cross-entropy of the right tokens, summed over these solutions.

        Args:
            readings: log-probs [B, 2] of z_yes and z_no, with gradient; those of weight 0 may be NaN.
            supervision: targets, which choose the tokens, and weights.
        """
        targets, weights = supervision
        yes, no = readings.log_probs.where(weights[:, None] > 0, 0.0).unbind(dim=1)
        return -(weights * yes.where(targets > CORRECT_THRESHOLD, no)).sum()

    def extra_repr(self) -> str:
        """Settings in the module's printout."""
        yes, no = self.tokens.values()
        return f"yes_token={yes!r}, no_token={no!r}, loss_weight={self.loss_weight}"
