"""The policy losses and their parts under their public name; they live in ``objective/losses``."""

from laser_lightning.objective.losses import (
    Aggregation,
    CISPOPolicyLoss,
    ClippedPolicyLoss,
    GSPOPolicyLoss,
    Importance,
    KLEstimator,
    PolicyLoss,
    TokenLosses,
    importance_weights,
    kl_estimate,
    solution_weights,
    weighted_sum,
)

__all__ = [
    "Aggregation",
    "CISPOPolicyLoss",
    "ClippedPolicyLoss",
    "GSPOPolicyLoss",
    "Importance",
    "KLEstimator",
    "PolicyLoss",
    "TokenLosses",
    "importance_weights",
    "kl_estimate",
    "solution_weights",
    "weighted_sum",
]
