"""Problems: where they come from, how they become prompts, and how they reach the ranks.

The names are imported on first use: the scorer, which encodes prompts too, does without the trainer.
"""

from typing import TYPE_CHECKING

from laser_lightning.lazy import on_first_use

if TYPE_CHECKING:
    from laser_lightning.data.arithmetic import ArithmeticSource
    from laser_lightning.data.curriculum.curriculum import Curriculum, Draw, StepOutcome
    from laser_lightning.data.curriculum.uniform import InOrder, UniformShuffling
    from laser_lightning.data.loader import PromptLoader
    from laser_lightning.data.module import PromptDataModule
    from laser_lightning.data.problem import Problem, RecordedSolution
    from laser_lightning.data.sources import FileSource, HubSource, ProblemSource
    from laser_lightning.data.templates import PromptTemplate

_EXPORTS = {
    "ArithmeticSource": "laser_lightning.data.arithmetic",
    "Curriculum": "laser_lightning.data.curriculum.curriculum",
    "Draw": "laser_lightning.data.curriculum.curriculum",
    "FileSource": "laser_lightning.data.sources",
    "HubSource": "laser_lightning.data.sources",
    "InOrder": "laser_lightning.data.curriculum.uniform",
    "Problem": "laser_lightning.data.problem",
    "ProblemSource": "laser_lightning.data.sources",
    "PromptDataModule": "laser_lightning.data.module",
    "PromptLoader": "laser_lightning.data.loader",
    "PromptTemplate": "laser_lightning.data.templates",
    "RecordedSolution": "laser_lightning.data.problem",
    "StepOutcome": "laser_lightning.data.curriculum.curriculum",
    "UniformShuffling": "laser_lightning.data.curriculum.uniform",
}

__all__ = [
    "ArithmeticSource",
    "Curriculum",
    "Draw",
    "FileSource",
    "HubSource",
    "InOrder",
    "Problem",
    "ProblemSource",
    "PromptDataModule",
    "PromptLoader",
    "PromptTemplate",
    "RecordedSolution",
    "StepOutcome",
    "UniformShuffling",
]

__getattr__, __dir__ = on_first_use(__name__, _EXPORTS)
