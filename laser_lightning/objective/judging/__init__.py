"""Judging updates: the self-reward learns from the solutions of several rounds, and the policy is held meanwhile."""

from laser_lightning.objective.judging.hold import KLHold, PolicyHold, SampledCrossEntropy
from laser_lightning.objective.judging.settings import JudgingSettings

__all__ = ["JudgingSettings", "KLHold", "PolicyHold", "SampledCrossEntropy"]
