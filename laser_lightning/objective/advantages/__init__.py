"""Advantages: how much better a solution is than its group, or than all solutions of the round."""

from laser_lightning.objective.advantages.batch_normalized import BatchNormalized
from laser_lightning.objective.advantages.estimator import AdvantageEstimator
from laser_lightning.objective.advantages.group_relative import GroupRelative
from laser_lightning.objective.advantages.leave_one_out import LeaveOneOut
from laser_lightning.objective.advantages.mixing import AdvantageMixing, SelfRewardMixing
from laser_lightning.objective.advantages.record import Advantages
from laser_lightning.objective.advantages.settings import AdvantageSettings
from laser_lightning.objective.advantages.trust_weighted import TrustWeightedMixing

__all__ = [
    "AdvantageEstimator",
    "AdvantageMixing",
    "AdvantageSettings",
    "Advantages",
    "BatchNormalized",
    "GroupRelative",
    "LeaveOneOut",
    "SelfRewardMixing",
    "TrustWeightedMixing",
]
