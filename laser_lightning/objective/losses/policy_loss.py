"""What a policy loss is, and how the losses of tokens become the loss of an optimizer step."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from laser_lightning.arguments import Part

Aggregation = Literal["token_mean", "sequence_mean", "fixed_length"]


class TokenLosses(NamedTuple):
    """Losses of tokens.

    Attributes:
        losses: [B, R], with gradient; places outside the mask are ignored.
        clipped: [B, R] bool, where a bound cut off the gradient, or changed its weight.
    """

    losses: Tensor
    clipped: Tensor


class PolicyLoss(Part, ABC):
    """The policy-gradient part of the objective, for one micro-batch."""

    @abstractmethod
    def __call__(self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor) -> TokenLosses:
        """Per-token losses.

        Args:
            log_probs: [B, R] of the policy now, with gradient.
            old_log_probs: [B, R] of the policy that the update started from.
            advantages: [B], one per solution.
            mask: [B, R] bool, the response tokens.
        """


def solution_weights(
    lengths: Tensor, aggregation: Aggregation, total_tokens: Tensor, total_solutions: Tensor, max_length: int
) -> Tensor:
    """What every token of a solution weighs in the optimizer step's loss.

    ``token_mean`` averages over all response tokens of the step; ``sequence_mean`` averages within each solution,
    and then over solutions; ``fixed_length`` divides the sum over a solution's tokens by the length limit in place of
    its own length, so that a token weighs the same in a long solution as in a short one (Dr.GRPO, arXiv 2503.20783,
    section 3.2). The totals belong to the optimizer step on all ranks, so that the result does not depend on how the
    step is split.

    Args:
        lengths: [N] response lengths in tokens.
        aggregation: which mean.
        total_tokens: response tokens of the step on all ranks.
        total_solutions: solutions of the step on all ranks.
        max_length: the length limit in tokens.

    Returns:
        [N] float32.
    """
    if aggregation == "token_mean":
        return torch.ones_like(lengths, dtype=torch.float32) / total_tokens
    divisors = torch.full_like(lengths, max_length) if aggregation == "fixed_length" else lengths
    return 1.0 / (divisors.float() * total_solutions)


def weighted_sum(values: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Sum of the masked values [B, R] times the weight [B] of their solution."""
    return (values.where(mask, 0.0).sum(dim=1) * weights).sum()
