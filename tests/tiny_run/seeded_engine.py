"""Draws the responses to a prompt from a seed of that prompt, whichever rank it is on."""

import zlib

import torch

from laser_lightning.records.batching import concat_solutions
from laser_lightning.rollout import TransformersEngine


class SeededEngine(TransformersEngine):
    def generate(self, policy, prompts, *others):
        parts = []
        for prompt in prompts:
            generator = torch.Generator().manual_seed(zlib.crc32(bytes(token % 256 for token in prompt)))
            parts.append(super().generate(policy, [prompt], *others[:-1], generator))
        return concat_solutions(parts)
