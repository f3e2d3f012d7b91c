"""How the losses of tokens become the loss of an optimizer step."""

from typing import Literal

import torch
from torch import Tensor

from laser_lightning.shapes import Bool, Float, Int, Real

Aggregation = Literal["token_mean", "sequence_mean", "fixed_length"]


def solution_weights(
    lengths: Int[Tensor, " N"],
    aggregation: Aggregation,
    total_tokens: Real[Tensor, ""],
    total_solutions: Real[Tensor, ""],
    max_length: int,
) -> Float[Tensor, " N"]:
    """What every token of a solution weighs in the optimizer step's loss.

    ``token_mean`` averages over all trained tokens of the step; ``sequence_mean`` averages within each solution,
    and then over solutions; ``fixed_length`` divides the sum over a solution's tokens by the length limit in place of
    their own number, so that a token weighs the same in a long solution as in a short one (Dr.GRPO, arXiv 2503.20783,
    section 3.2). The totals belong to the optimizer step on all ranks, so that the result does not depend on how the
    step is split.

    Args:
        lengths: [N] trained tokens of each response: its length, where all of them are.
        aggregation: which mean.
        total_tokens: trained tokens of the step on all ranks.
        total_solutions: solutions of the step on all ranks.
        max_length: the length limit in tokens.

    Returns:
        [N] float32.
    """
    if aggregation == "token_mean":
        return torch.ones_like(lengths, dtype=torch.float32) / total_tokens.clamp(min=1)
    divisors = torch.full_like(lengths, max_length) if aggregation == "fixed_length" else lengths.clamp(min=1)
    return 1.0 / (divisors.float() * total_solutions)


def weighted_sum(
    values: Float[Tensor, "B R"], mask: Bool[Tensor, "B R"], weights: Float[Tensor, " B"]
) -> Float[Tensor, ""]:
    """Sum of the masked values [B, R] times the weight [B] of their solution."""
    return (values.where(mask, 0.0).sum(dim=1) * weights).sum()
