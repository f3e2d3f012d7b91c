"""Callbacks for LaSeR runs, imported as ``laser_lightning.callbacks``."""

from laser_lightning.callbacks.calibration import Calibration, ReferenceConstantCalibration
from laser_lightning.callbacks.checkpoint import RunCheckpoint
from laser_lightning.callbacks.export import HuggingFaceExport
from laser_lightning.callbacks.figures import SelfRewardFigures
from laser_lightning.callbacks.predictions import Predictions
from laser_lightning.callbacks.progress import ConsoleProgress
from laser_lightning.callbacks.report import EvaluationReport
from laser_lightning.callbacks.solution_log import SolutionLog
from laser_lightning.callbacks.summary import RunSummary
from laser_lightning.modules.export import SelfRewardSettings

__all__ = [
    "Calibration",
    "ConsoleProgress",
    "EvaluationReport",
    "HuggingFaceExport",
    "Predictions",
    "ReferenceConstantCalibration",
    "RunCheckpoint",
    "RunSummary",
    "SelfRewardFigures",
    "SelfRewardSettings",
    "SolutionLog",
]
