"""Rewards that are shaped before advantages are made of them."""

from laser_lightning.objective.shaping.cosine import CosineReward
from laser_lightning.objective.shaping.format import FormatReward
from laser_lightning.objective.shaping.format_length import FormatLengthReward
from laser_lightning.objective.shaping.function import FunctionShaper, SolutionGroup
from laser_lightning.objective.shaping.kimi_length import KimiLengthReward
from laser_lightning.objective.shaping.low_spread import DropLowSpread
from laser_lightning.objective.shaping.overlong import OverlongPenalty
from laser_lightning.objective.shaping.repetition import RepetitionPenalty
from laser_lightning.objective.shaping.shaper import RewardShaper

__all__ = [
    "CosineReward",
    "DropLowSpread",
    "FormatLengthReward",
    "FormatReward",
    "FunctionShaper",
    "KimiLengthReward",
    "OverlongPenalty",
    "RepetitionPenalty",
    "RewardShaper",
    "SolutionGroup",
]
