"""Policy losses, their importance weights, and the KL term."""

from laser_lightning.objective.losses.cispo import CISPOPolicyLoss
from laser_lightning.objective.losses.clipped import ClippedPolicyLoss
from laser_lightning.objective.losses.gspo import GSPOPolicyLoss
from laser_lightning.objective.losses.importance import Importance, importance_weights
from laser_lightning.objective.losses.kl import KLEstimator, kl_estimate
from laser_lightning.objective.losses.policy_loss import (
    Aggregation,
    PolicyLoss,
    TokenLosses,
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
