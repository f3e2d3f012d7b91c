"""Advantages: how much better a solution is than its group, or than all solutions of the round."""

from laser_lightning.objective.advantages.batch_normalized import BatchNormalized
from laser_lightning.objective.advantages.discrepancy import DiscrepancyWeighting
from laser_lightning.objective.advantages.ema_baseline import EMABaseline
from laser_lightning.objective.advantages.estimator import AdvantageEstimator
from laser_lightning.objective.advantages.group_relative import GroupRelative
from laser_lightning.objective.advantages.leave_one_out import LeaveOneOut
from laser_lightning.objective.advantages.lite_ppo import LitePPO
from laser_lightning.objective.advantages.mixing import AdvantageMixing, SelfRewardMixing
from laser_lightning.objective.advantages.ngrpo import NGRPO
from laser_lightning.objective.advantages.record import Advantages
from laser_lightning.objective.advantages.settings import AdvantageSettings
from laser_lightning.objective.advantages.trust_weighted import TrustWeightedMixing

__all__ = [
    "NGRPO",
    "AdvantageEstimator",
    "AdvantageMixing",
    "AdvantageSettings",
    "Advantages",
    "BatchNormalized",
    "DiscrepancyWeighting",
    "EMABaseline",
    "GroupRelative",
    "LeaveOneOut",
    "LitePPO",
    "SelfRewardMixing",
    "TrustWeightedMixing",
]
