"""Problems: where they come from, how they become prompts, and how they reach the ranks.

The names are imported on first use: the scorer, which encodes prompts too, does without the trainer.
"""

from typing import TYPE_CHECKING

from laser_lightning.lazy import on_first_use

if TYPE_CHECKING:
    from laser_lightning.data.arithmetic import ArithmeticSource
    from laser_lightning.data.loader import PromptLoader
    from laser_lightning.data.module import PromptDataModule
    from laser_lightning.data.problem import Problem
    from laser_lightning.data.sources import FileSource, HubSource, ProblemSource
    from laser_lightning.data.templates import PromptTemplate

_EXPORTS = {
    "ArithmeticSource": "laser_lightning.data.arithmetic",
    "FileSource": "laser_lightning.data.sources",
    "HubSource": "laser_lightning.data.sources",
    "Problem": "laser_lightning.data.problem",
    "ProblemSource": "laser_lightning.data.sources",
    "PromptDataModule": "laser_lightning.data.module",
    "PromptLoader": "laser_lightning.data.loader",
    "PromptTemplate": "laser_lightning.data.templates",
}

__all__ = [
    "ArithmeticSource",
    "FileSource",
    "HubSource",
    "Problem",
    "ProblemSource",
    "PromptDataModule",
    "PromptLoader",
    "PromptTemplate",
]

__getattr__, __dir__ = on_first_use(__name__, _EXPORTS)
