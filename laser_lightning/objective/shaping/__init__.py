"""Rewards that are shaped before advantages are made of them."""

from laser_lightning.objective.shaping.low_spread import DropLowSpread
from laser_lightning.objective.shaping.overlong import OverlongPenalty
from laser_lightning.objective.shaping.shaper import RewardShaper

__all__ = ["DropLowSpread", "OverlongPenalty", "RewardShaper"]
