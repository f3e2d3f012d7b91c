"""Two formulas as the functions that version 0.1 had; the parts in ``objective/losses`` compute them."""

from typing import Literal

import torch
from torch import Tensor

from laser_lightning.objective.losses.importance import ImportanceWeights, TruncatedImportance, correct_importance
from laser_lightning.objective.losses.kl import KLEstimate, KLEstimator

Importance = Literal["none", "token", "sequence"]


@torch.no_grad()
def importance_weights(
    log_probs: Tensor, sampling_log_probs: Tensor, mask: Tensor, importance: Importance, cap: float
) -> ImportanceWeights:
    """The weights of ``TruncatedImportance``.

    Args:
        log_probs: [B, R] of the trainer's policy that the update started from.
        sampling_log_probs: [B, R] of the engine.
        mask: [B, R] bool, the response tokens.
        importance: ``token``, ``sequence``, or ``none``, which is taken for ``token``.
        cap: largest weight.
    """
    level: Literal["token", "sequence"] = "sequence" if importance == "sequence" else "token"
    return correct_importance(TruncatedImportance(level, cap), log_probs, sampling_log_probs, mask)


def kl_estimate(log_probs: Tensor, reference_log_probs: Tensor, estimator: KLEstimator) -> Tensor:
    """[B, R] of ``KLEstimate``.

    Args:
        log_probs: [B, R] of the policy, with gradient.
        reference_log_probs: [B, R] of the reference.
        estimator: ``k1``, ``k2`` or ``k3``.
    """
    return KLEstimate(estimator)(log_probs, reference_log_probs)
