"""Truncated importance sampling, for an engine whose log-probs differ from the trainer's."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Importance = Literal["none", "token", "sequence"]


class ImportanceWeights(NamedTuple):
    """What the policy losses of tokens are multiplied by.

    Attributes:
        weights: [B, R], without gradient; places outside the mask hold no meaning.
        capped: [B, R] bool, response tokens whose ratio was cut to the cap.
    """

    weights: Tensor
    capped: Tensor


@torch.no_grad()
def importance_weights(
    log_probs: Tensor, sampling_log_probs: Tensor, mask: Tensor, importance: Importance, cap: float
) -> ImportanceWeights:
    """min(pi_trainer / pi_engine, cap) of each token, or of each whole response.

    Tokens are drawn by the engine, and the policy gradient is that of the trainer's policy, which differs by rounding
    or more (other kernels, lower precision). The ratio of both makes up for it, and the cap bounds its variance (Yao et
    al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training").

    Args:
        log_probs: [B, R] of the trainer's policy that the update started from.
        sampling_log_probs: [B, R] of the engine.
        mask: [B, R] bool, the response tokens.
        importance: ``token`` for a ratio of each token, ``sequence`` for their product over the response.
        cap: largest weight.
    """
    log_ratios = (log_probs - sampling_log_probs).where(mask, 0.0)
    if importance == "sequence":
        log_ratios = log_ratios.sum(dim=1, keepdim=True).expand_as(log_ratios)
    ratios = log_ratios.exp()
    return ImportanceWeights(ratios.clamp(max=cap), (ratios > cap) & mask)
