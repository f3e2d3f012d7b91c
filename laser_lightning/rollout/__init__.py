"""Rollout engines: prompts in, solutions with their scores out."""

from laser_lightning.rollout.engine import RolloutEngine, Sampling
from laser_lightning.rollout.kept_source import KeptSource
from laser_lightning.rollout.recorded import RecordedSolutions
from laser_lightning.rollout.transformers.engine import TransformersEngine
from laser_lightning.rollout.vllm.engine import VLLMEngine

__all__ = ["KeptSource", "RecordedSolutions", "RolloutEngine", "Sampling", "TransformersEngine", "VLLMEngine"]
