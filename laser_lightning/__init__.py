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
    from laser_lightning.modules.laser import LaSeRModule
    from laser_lightning.modules.rise import RISEModule
    from laser_lightning.modules.supervised import SupervisedModule
    from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
    from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
    from laser_lightning.objective.self_reward.solutions import StepSolutions, Supervision
    from laser_lightning.objective.self_reward.target import SelfRewardTarget
    from laser_lightning.objective.self_reward.weights import SelfRewardWeights
    from laser_lightning.objective.self_reward.yes_no import YesNoSelfReward
    from laser_lightning.records.batching import Rollouts

__version__ = "0.1.0"

_EXPORTS = {
    "LaSeRModule": "laser_lightning.modules.laser",
    "RISEModule": "laser_lightning.modules.rise",
    "SupervisedModule": "laser_lightning.modules.supervised",
    "LastTokenSelfReward": "laser_lightning.objective.self_reward.last_token",
    "Readings": "laser_lightning.objective.self_reward.head",
    "SelfRewardHead": "laser_lightning.objective.self_reward.head",
    "SelfRewardTarget": "laser_lightning.objective.self_reward.target",
    "SelfRewardWeights": "laser_lightning.objective.self_reward.weights",
    "StepSolutions": "laser_lightning.objective.self_reward.solutions",
    "Supervision": "laser_lightning.objective.self_reward.solutions",
    "YesNoSelfReward": "laser_lightning.objective.self_reward.yes_no",
    "LaSeRScorer": "laser_lightning.inference.scorer",
    "PromptDataModule": "laser_lightning.data",
    "Rollouts": "laser_lightning.records.batching",
}

__all__ = [
    "LaSeRModule",
    "LaSeRScorer",
    "LastTokenSelfReward",
    "PromptDataModule",
    "RISEModule",
    "Readings",
    "Rollouts",
    "SelfRewardHead",
    "SelfRewardTarget",
    "SelfRewardWeights",
    "StepSolutions",
    "SupervisedModule",
    "Supervision",
    "YesNoSelfReward",
]

sys.meta_path.append(OldPlaces())


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
