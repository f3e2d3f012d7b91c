"""Reinforcement learning with last-token self-rewarding (LaSeR, arXiv 2510.14943) on Lightning.

The names below are imported on first use, so that light-weight users of the package (the command line's help, and the
verifier's worker processes, above all) do not pay for torch and Lightning.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from laser_lightning.moved import OldPlaces

if TYPE_CHECKING:
    from laser_lightning.data import PromptDataModule
    from laser_lightning.inference.scorer import LaSeRScorer
    from laser_lightning.metrics.votes import Candidates, VoteRule
    from laser_lightning.modules.laser import LaSeRModule
    from laser_lightning.modules.rise import RISEModule
    from laser_lightning.modules.supervised import SupervisedModule
    from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
    from laser_lightning.objective.self_reward.yes_no import YesNoSelfReward
    from laser_lightning.records.batching import Rollouts

__version__ = "0.1.0"

_EXPORTS = {
    "LaSeRModule": "laser_lightning.modules.laser",
    "RISEModule": "laser_lightning.modules.rise",
    "SupervisedModule": "laser_lightning.modules.supervised",
    "LastTokenSelfReward": "laser_lightning.objective.self_reward.last_token",
    "YesNoSelfReward": "laser_lightning.objective.self_reward.yes_no",
    "LaSeRScorer": "laser_lightning.inference.scorer",
    "PromptDataModule": "laser_lightning.data",
    "Rollouts": "laser_lightning.records.batching",
    "Candidates": "laser_lightning.metrics.votes",
    "VoteRule": "laser_lightning.metrics.votes",
}

__all__ = [
    "Candidates",
    "LaSeRModule",
    "LaSeRScorer",
    "LastTokenSelfReward",
    "PromptDataModule",
    "RISEModule",
    "Rollouts",
    "SupervisedModule",
    "VoteRule",
    "YesNoSelfReward",
]

sys.meta_path.append(OldPlaces())


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
