"""Policy losses, their importance weights, and the KL term."""

from laser_lightning.objective.losses.aggregation import Aggregation, solution_weights, weighted_sum
from laser_lightning.objective.losses.cispo import CISPOPolicyLoss
from laser_lightning.objective.losses.clipped import ClippedPolicyLoss
from laser_lightning.objective.losses.gspo import GSPOPolicyLoss
from laser_lightning.objective.losses.importance import ImportanceCorrection, ImportanceWeights, TruncatedImportance
from laser_lightning.objective.losses.kl import KLDivergence, KLEstimate, KLEstimator
from laser_lightning.objective.losses.policy_loss import PolicyLoss, PolicyTokens, TokenLosses

__all__ = [
    "Aggregation",
    "CISPOPolicyLoss",
    "ClippedPolicyLoss",
    "GSPOPolicyLoss",
    "ImportanceCorrection",
    "ImportanceWeights",
    "KLDivergence",
    "KLEstimate",
    "KLEstimator",
    "PolicyLoss",
    "PolicyTokens",
    "TokenLosses",
    "TruncatedImportance",
    "solution_weights",
    "weighted_sum",
]
