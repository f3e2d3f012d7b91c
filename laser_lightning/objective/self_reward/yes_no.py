"""Self-verification learned by cross-entropy: the supervised variant that LaSeR compares with (arXiv 2510.14943)."""

from torch import Tensor

from laser_lightning.objective.self_reward.last_token import CORRECT_THRESHOLD, SelfRewardHead


class YesNoSelfReward(SelfRewardHead):
    """Trains the token behind ``<eos>`` to be z_yes for correct solutions and z_no for incorrect ones.

    The self-reward is the probability r_s = pi(z_yes given x, y), and the loss the cross-entropy of the right one of
    the two tokens, both over the whole vocabulary. There is no reference, and nothing to calibrate.

    Args:
        yes_token: z_yes, one token of the vocabulary; normal text had better not contain it.
        no_token: z_no, another such token.
        loss_weight: weight of the cross-entropy; 0 trains plain GRPO, with no self-rewards in the advantages either,
            and still reports the score.
        class_weights: let correct and incorrect solutions weigh half each, however many there are.
    """

    def __init__(self, yes_token: str, no_token: str, loss_weight: float = 0.1, class_weights: bool = True) -> None:
        super().__init__({"yes_token": yes_token, "no_token": no_token}, loss_weight, class_weights)

    def trained_token_ids(self, rewards: Tensor) -> Tensor:
        """[B] int64: z_yes for correct solutions, z_no for incorrect ones.

        Args:
            rewards: [B] verifier rewards.
        """
        yes, no = self.token_ids
        correct = rewards > CORRECT_THRESHOLD
        return correct * yes + ~correct * no

    def score(self, log_probs: Tensor, reference: Tensor | None = None) -> Tensor:
        """The self-reward r_s = pi(z_yes given x, y).

        Args:
            log_probs: [N] log pi(z_yes given x, y).
            reference: not used.

        Returns:
            [N] float32 probabilities, NaN where ``log_probs`` is (truncated solutions).
        """
        return log_probs.float().exp()

    def loss(self, log_probs: Tensor, rewards: Tensor, weights: Tensor, reference: Tensor | None = None) -> Tensor:
        """The weighted cross-entropy, summed over these solutions.

        Args:
            log_probs: [B] of the right token (``trained_token_ids``), with gradient; entries of weight 0 may be NaN.
            rewards: [B] verifier rewards, which have chosen the tokens.
            weights: [B] of ``loss_weights``.
            reference: not used.
        """
        return -(weights * log_probs.where(weights > 0, 0.0)).sum()

    def extra_repr(self) -> str:
        """Settings in the module's printout."""
        yes, no = self.tokens.values()
        return f"yes_token={yes!r}, no_token={no!r}, loss_weight={self.loss_weight}"
