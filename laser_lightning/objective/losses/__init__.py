"""Policy losses, their importance weights, and the KL term."""

from laser_lightning.objective.losses.aggregation import Aggregation, solution_weights, weighted_sum
from laser_lightning.objective.losses.cispo import CISPOPolicyLoss
from laser_lightning.objective.losses.clipped import ClippedPolicyLoss
from laser_lightning.objective.losses.g_opd import GOPDPolicyLoss
from laser_lightning.objective.losses.gspo import GSPOPolicyLoss
from laser_lightning.objective.losses.importance import (
    ImportanceCorrection,
    ImportanceWeights,
    NoImportance,
    TruncatedImportance,
)
from laser_lightning.objective.losses.kl import KLDivergence, KLEstimate, KLEstimator
from laser_lightning.objective.losses.lp_reg import LpRegPolicyLoss
from laser_lightning.objective.losses.masked_importance import MaskedImportance
from laser_lightning.objective.losses.mirror_descent import MirrorDescentPolicyLoss
from laser_lightning.objective.losses.policy_loss import PolicyLoss, PolicyTokens, TokenLosses
from laser_lightning.objective.losses.rover import ROVERPolicyLoss
from laser_lightning.objective.losses.sspo import SSPOPolicyLoss
from laser_lightning.objective.losses.top_k_distillation import TopKDistillation

__all__ = [
    "Aggregation",
    "CISPOPolicyLoss",
    "ClippedPolicyLoss",
    "GOPDPolicyLoss",
    "GSPOPolicyLoss",
    "ImportanceCorrection",
    "ImportanceWeights",
    "KLDivergence",
    "KLEstimate",
    "KLEstimator",
    "LpRegPolicyLoss",
    "MaskedImportance",
    "MirrorDescentPolicyLoss",
    "NoImportance",
    "PolicyLoss",
    "PolicyTokens",
    "ROVERPolicyLoss",
    "SSPOPolicyLoss",
    "TokenLosses",
    "TopKDistillation",
    "TruncatedImportance",
    "solution_weights",
    "weighted_sum",
]
