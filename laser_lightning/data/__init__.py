"""Problems: where they come from, how they become prompts, and how they reach the ranks."""

from laser_lightning.data.arithmetic import ArithmeticSource
from laser_lightning.data.loader import PromptLoader
from laser_lightning.data.module import PromptDataModule
from laser_lightning.data.problem import Problem
from laser_lightning.data.sources import FileSource, HubSource, ProblemSource
from laser_lightning.data.templates import PromptTemplate

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
