"""Rollout engines: prompts in, solutions with their scores out."""

from typing import TYPE_CHECKING

from laser_lightning.lazy import on_first_use
from laser_lightning.policy.weight_stream import WeightStream
from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.process.engine import EngineProcess
from laser_lightning.rollout.recorded import RecordedSolutions
from laser_lightning.rollout.server.engine import VLLMServerEngine
from laser_lightning.rollout.server.file_transfer import FileTransfer
from laser_lightning.rollout.server.nccl_transfer import NCCLTransfer
from laser_lightning.rollout.server.transfer import WeightTransfer
from laser_lightning.rollout.settings import RolloutSettings
from laser_lightning.rollout.transformers.engine import TransformersEngine
from laser_lightning.rollout.vllm.engine import VLLMEngine

if TYPE_CHECKING:
    from laser_lightning.rollout.kept_source import KeptSource

__all__ = [
    "EngineProcess",
    "FileTransfer",
    "KeptSource",
    "NCCLTransfer",
    "RecordedSolutions",
    "RolloutEngine",
    "RolloutSettings",
    "Sampling",
    "TransformersEngine",
    "VLLMEngine",
    "VLLMServerEngine",
    "WeightStream",
    "WeightTransfer",
]

# Sources know the trainer, without which the scorer does.
__getattr__, __dir__ = on_first_use(__name__, {"KeptSource": "laser_lightning.rollout.kept_source"})
