"""Reinforcement learning with last-token self-rewarding (LaSeR, arXiv 2510.14943) on Lightning.

The names below are imported on first use, so that light-weight users of the package (the verifier worker
processes, above all) do not pay for torch and Lightning.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "LaSeRModule": "laser_lightning.module",
    "RISEModule": "laser_lightning.rise",
    "SupervisedModule": "laser_lightning.supervised",
    "LastTokenSelfReward": "laser_lightning.self_reward",
    "YesNoSelfReward": "laser_lightning.yes_no",
    "LaSeRScorer": "laser_lightning.scorer",
    "PromptDataModule": "laser_lightning.data",
    "Rollouts": "laser_lightning.batching",
}

__all__ = [
    "LaSeRModule",
    "LaSeRScorer",
    "LastTokenSelfReward",
    "PromptDataModule",
    "RISEModule",
    "Rollouts",
    "SupervisedModule",
    "YesNoSelfReward",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
