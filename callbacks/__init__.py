"""Callbacks for LaSeR runs, imported as ``laser_lightning.callbacks``."""

from laser_lightning.callbacks.calibration import Calibration, ReferenceConstantCalibration

__all__ = ["Calibration", "ReferenceConstantCalibration"]
