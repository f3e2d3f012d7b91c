"""Writes down, for each step, the mistake that the model believed in most."""

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class ConfidentMistakes(Callback):
    """Logs the share of solutions that are wrong and graded as right, and writes the worst one of each step.

    Args:
        threshold: self-reward above which the model counts as sure.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Asked for on all processes together: they agree on the run's directory.
        self.path = Path(trainer.log_dir or trainer.default_root_dir) / "mistakes.jsonl"

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rollout = pl_module.last_rollout
        wrong = rollout.rewards < 0.5
        believed = wrong & (rollout.self_rewards > self.threshold)
        pl_module.log("train/confident_mistakes", believed.float().mean(), sync_dist=True)
        if trainer.is_global_zero and wrong.any():
            row = int(rollout.self_rewards.where(wrong, -torch.inf).argmax())
            mistake = {"problem": rollout.problem_of(row).problem, "response": rollout.texts[row]}
            mistake["self_reward"] = float(rollout.self_rewards[row])
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": trainer.global_step, **mistake}) + "\n")
