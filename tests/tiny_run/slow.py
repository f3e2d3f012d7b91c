"""Parts of a run that take for ever, where the file ``slow`` says so: ``verification 3`` is the third verification, and
``rollout 2 1`` the second rollout on rank 1."""

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from length_verifier import LengthVerifier
from lightning.pytorch import Callback

from laser_lightning.losses import ClippedPolicyLoss
from laser_lightning.rollout import TransformersEngine

CALLS: Counter[str] = Counter()
RANK = os.environ.get("RANK", "0")


def lingers(part: str) -> bool:
    """Whether this call of a part is the one that takes for ever; says by the file ``inside`` that it has begun."""
    CALLS[part] += 1
    plan = Path("slow")
    here = f"{part} {CALLS[part]}"
    Path(f"pid{RANK}").write_text(str(os.getpid()))
    if not plan.exists() or plan.read_text() not in (here, f"{here} {RANK}"):
        return False
    Path("inside").touch()
    return True


class SlowEngine(TransformersEngine):
    """Decodes again and again. An evaluation is known by its two samples."""

    def generate(self, policy: Any, prompts: Any, group_size: int, *args: Any) -> Any:
        if lingers({2: "evaluation", 8: "calibration"}.get(group_size, "rollout")):
            while True:
                super().generate(policy, prompts, group_size, *args)
        return super().generate(policy, prompts, group_size, *args)


class SlowLoss(ClippedPolicyLoss):
    """Computes on, and draws from torch's own generator."""

    def __call__(self, *args: Any) -> Any:
        if lingers("update"):
            while True:
                torch.randn(200, 200) @ torch.randn(200, 200)
        return super().__call__(*args)


class SlowVerifier(LengthVerifier):
    def reward(self, response: str, gold: str) -> float:
        if lingers("verification"):
            time.sleep(1000)
        return super().reward(response, gold)


class SlowCallback(Callback):
    """Takes for ever between two steps, where nothing may be broken off."""

    def on_train_batch_end(self, *args: Any) -> None:
        if lingers("callback"):
            while True:
                time.sleep(0.1)
