"""Problems: where they come from, how they become prompts, and how they reach the ranks.

The names are imported on first use: the scorer, which encodes prompts too, does without the trainer.
"""

from typing import TYPE_CHECKING

from laser_lightning.lazy import on_first_use

if TYPE_CHECKING:
    from laser_lightning.data.arithmetic import ArithmeticSource
    from laser_lightning.data.curriculum.bounds import AccuracyBounds
    from laser_lightning.data.curriculum.curriculum import Curriculum, Draw, StepOutcome
    from laser_lightning.data.curriculum.dads import Dads
    from laser_lightning.data.curriculum.dump import DUMP
    from laser_lightning.data.curriculum.kinds import KindCurriculum
    from laser_lightning.data.curriculum.mopps import MoPPS
    from laser_lightning.data.curriculum.schedule import Schedule, Stage
    from laser_lightning.data.curriculum.sec import SEC
    from laser_lightning.data.curriculum.uniform import InOrder, UniformShuffling
    from laser_lightning.data.curriculum.verification_gap import VerificationGap
    from laser_lightning.data.loader import PromptLoader
    from laser_lightning.data.module import PromptDataModule
    from laser_lightning.data.problem import Problem, RecordedSolution
    from laser_lightning.data.sources import FileSource, HubSource, ProblemSource
    from laser_lightning.data.templates import PromptTemplate

_EXPORTS = {
    "AccuracyBounds": "laser_lightning.data.curriculum.bounds",
    "ArithmeticSource": "laser_lightning.data.arithmetic",
    "Curriculum": "laser_lightning.data.curriculum.curriculum",
    "DUMP": "laser_lightning.data.curriculum.dump",
    "Dads": "laser_lightning.data.curriculum.dads",
    "Draw": "laser_lightning.data.curriculum.curriculum",
    "FileSource": "laser_lightning.data.sources",
    "HubSource": "laser_lightning.data.sources",
    "InOrder": "laser_lightning.data.curriculum.uniform",
    "KindCurriculum": "laser_lightning.data.curriculum.kinds",
    "MoPPS": "laser_lightning.data.curriculum.mopps",
    "Problem": "laser_lightning.data.problem",
    "ProblemSource": "laser_lightning.data.sources",
    "PromptDataModule": "laser_lightning.data.module",
    "PromptLoader": "laser_lightning.data.loader",
    "PromptTemplate": "laser_lightning.data.templates",
    "RecordedSolution": "laser_lightning.data.problem",
    "SEC": "laser_lightning.data.curriculum.sec",
    "Schedule": "laser_lightning.data.curriculum.schedule",
    "Stage": "laser_lightning.data.curriculum.schedule",
    "StepOutcome": "laser_lightning.data.curriculum.curriculum",
    "UniformShuffling": "laser_lightning.data.curriculum.uniform",
    "VerificationGap": "laser_lightning.data.curriculum.verification_gap",
}

__all__ = [
    "DUMP",
    "SEC",
    "AccuracyBounds",
    "ArithmeticSource",
    "Curriculum",
    "Dads",
    "Draw",
    "FileSource",
    "HubSource",
    "InOrder",
    "KindCurriculum",
    "MoPPS",
    "Problem",
    "ProblemSource",
    "PromptDataModule",
    "PromptLoader",
    "PromptTemplate",
    "RecordedSolution",
    "Schedule",
    "Stage",
    "StepOutcome",
    "UniformShuffling",
    "VerificationGap",
]

__getattr__, __dir__ = on_first_use(__name__, _EXPORTS)
