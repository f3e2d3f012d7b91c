"""The embedded task: arithmetic problems with worked solutions, made on the fly from a seed."""

from laser_lightning.data.arithmetic.additions import worked_addition
from laser_lightning.data.arithmetic.exercise import Split
from laser_lightning.data.arithmetic.source import DEFAULT_KINDS, HELD_OUT_SEED, ArithmeticSource

__all__ = ["DEFAULT_KINDS", "HELD_OUT_SEED", "ArithmeticSource", "Split", "worked_addition"]
