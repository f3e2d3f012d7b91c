"""What a policy loss is."""

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor

from laser_lightning.objective.part import ObjectivePart
from laser_lightning.shapes import Bool, Float, Int


class PolicyTokens(NamedTuple):
    """What a policy loss may look at: the response tokens of B solutions, R places wide.

    Attributes:
        log_probs: [B, R] of the policy now, with gradient.
        old_log_probs: [B, R] of the policy that the update started from.
        advantages: [B, R]; where there is one for a solution, it stands at each of its tokens.
        mask: [B, R] bool, the tokens that are trained on; other places hold no meaning.
        token_ids: [B, R] int64.
        entropy: [B, R] entropies (nats) of the distributions that the tokens were drawn from, with gradient; zeros
            unless the loss ``needs_entropy``.
        sentences: [B, R] int64, which sentence of the response each token belongs to, from 0; None unless the loss
            ``needs_sentences``.
        reference_log_probs: [B, R] of the frozen policy of before training; None unless something needs them.
        teacher_log_probs: [B, R] of the teacher; None unless something needs them.
    """

    log_probs: Float[Tensor, "B R"]
    old_log_probs: Float[Tensor, "B R"]
    advantages: Float[Tensor, "B R"]
    mask: Bool[Tensor, "B R"]
    token_ids: Int[Tensor, "B R"]
    entropy: Float[Tensor, "B R"]
    sentences: Int[Tensor, "B R"] | None = None
    reference_log_probs: Float[Tensor, "B R"] | None = None
    teacher_log_probs: Float[Tensor, "B R"] | None = None


class TokenLosses(NamedTuple):
    """Losses of tokens.

    Attributes:
        losses: [B, R], with gradient; places outside the mask are ignored.
        clipped: [B, R] bool, where a bound cut off the gradient, or changed its weight.
    """

    losses: Float[Tensor, "B R"]
    clipped: Bool[Tensor, "B R"]


class PolicyLoss(ObjectivePart):
    """The policy-gradient part of the objective, for one micro-batch.

    Attributes:
        needs_sentences: whether it asks for the tokens' sentences.
    """

    needs_sentences: bool = False

    @abstractmethod
    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        """Per-token losses.

        Args:
            tokens: of B solutions.
        """
