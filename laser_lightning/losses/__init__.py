"""The policy losses and their parts under their public name; they live in ``objective/losses``."""

from laser_lightning.losses.functions import Importance, importance_weights, kl_estimate
from laser_lightning.objective.losses import (
    Aggregation,
    CISPOPolicyLoss,
    ClippedPolicyLoss,
    GSPOPolicyLoss,
    ImportanceCorrection,
    ImportanceWeights,
    KLDivergence,
    KLEstimate,
    KLEstimator,
    PolicyLoss,
    PolicyTokens,
    TokenLosses,
    TruncatedImportance,
    solution_weights,
    weighted_sum,
)

__all__ = [
    "Aggregation",
    "CISPOPolicyLoss",
    "ClippedPolicyLoss",
    "GSPOPolicyLoss",
    "Importance",
    "ImportanceCorrection",
    "ImportanceWeights",
    "KLDivergence",
    "KLEstimate",
    "KLEstimator",
    "PolicyLoss",
    "PolicyTokens",
    "TokenLosses",
    "TruncatedImportance",
    "importance_weights",
    "kl_estimate",
    "solution_weights",
    "weighted_sum",
]
