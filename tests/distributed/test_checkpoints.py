"""Checkpoints of DeepSpeed through the command line: resume, evaluation, refusals, export."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from laser_lightning.checkpoints import whole_state_dict

pytestmark = pytest.mark.distributed

CONFIG = """
seed_everything: 0
torch_threads: 1
model:
  init_args:
    policy:
      path: embedded
      random_init: true
      config_overrides: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1}
    self_reward:
      class_path: laser_lightning.LastTokenSelfReward
      init_args: {token: <|reward|>, beta: 0.5, loss_weight: 0.5, reference: calibrate}
    verifier: {class_path: length_verifier.LengthVerifier}
    group_size: 4
    sampling: {max_response_tokens: 40}
    optimizer: {learning_rate: 1.0e-2, warmup_steps: 4, schedule: linear}
    phases: {reasoning_steps: 1, self_reward_steps: 2}
    update: {mini_batches: 2}
    evaluation: {samples: 2}
data:
  init_args:
    train: {class_path: laser_lightning.data.ArithmeticSource, init_args: {split: train, size: 20}}
    val:
      sums: {class_path: laser_lightning.data.ArithmeticSource, init_args: {split: val, size: 3}}
    prompts_per_step: 8
trainer:
  max_steps: 8
  limit_val_batches: 1.0
  val_check_interval: 100
  check_val_every_n_epoch: null
  accelerator: cpu
  devices: 2
  enable_progress_bar: false
  strategy:
    init_args:
      zero_options: {stage3_param_persistence_threshold: 0}
calibration:
  class_path: laser_lightning.callbacks.ReferenceConstantCalibration
  init_args: {prompts: 20, group_size: 8, max_emission_rate: 1.0}
checkpoint:
  class_path: lightning.pytorch.callbacks.ModelCheckpoint
  init_args: {every_n_train_steps: 4, save_top_k: -1, filename: "{step}"}
export:
  class_path: laser_lightning.callbacks.HuggingFaceExport
"""

VERIFIER = """
from laser_lightning.verifiers import Verifier

class LengthVerifier(Verifier):
    def extract(self, response):
        return response or None

    def equivalent(self, answer, gold):
        return answer == gold

    def reward(self, response, gold):
        return float(len(response) % 2)
"""


def differences(ours: Any, theirs: Any, where: str) -> list[str]:
    """Where two saved values are not the same, bit for bit."""
    if isinstance(ours, torch.Tensor):
        same = torch.equal(ours.nan_to_num(), theirs.nan_to_num()) and torch.equal(ours.isnan(), theirs.isnan())
        return [] if same else [where]
    if isinstance(ours, dict):
        if ours.keys() != theirs.keys():
            return [where]
        return [found for key in ours for found in differences(ours[key], theirs[key], f"{where}/{key}")]
    if isinstance(ours, list | tuple):
        if len(ours) != len(theirs):
            return [where]
        pairs = zip(ours, theirs, strict=True)
        return [found for i, (one, other) in enumerate(pairs) for found in differences(one, other, f"{where}/{i}")]
    if isinstance(ours, int | float | str | None):
        return [] if ours == theirs or ours != ours else [where]
    return []


def evaluation(run: Path) -> dict[str, str]:
    """The last evaluation in a run's metrics."""
    rows = [row for row in csv.DictReader((run / "metrics.csv").open()) if row["val/sums/pass@1"]]
    return {name: value for name, value in rows[-1].items() if name.startswith("val/")}


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_resume_evaluate_and_export(strategy: str, command: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(CONFIG)
    (tmp_path / "length_verifier.py").write_text(VERIFIER)
    configs = ["--config", f"strategy/{strategy}", "--config", "run.yaml"]
    command(tmp_path, "fit", *configs, "--run_dir", "whole")
    checkpoints = tmp_path / "whole/checkpoints"

    # Behind step 4 the killed run was writing its next checkpoint.
    resumed = tmp_path / "resumed/checkpoints"
    shutil.copytree(checkpoints / "step=4.ckpt", resumed / "step=4.ckpt")
    (resumed / "step=6.ckpt/checkpoint").mkdir(parents=True)
    output = command(tmp_path, "fit", *configs, "--run_dir", "resumed", "--ckpt_path", "last")
    assert "step=6.ckpt was never finished" in output
    shards = sorted((checkpoints / "step=8.ckpt/checkpoint").glob("*.pt"))
    assert len(shards) == (3 if strategy == "zero2" else 4)
    for shard in shards:
        saved = [
            torch.load(path, weights_only=False, map_location="cpu")
            for path in (shard, resumed / "step=8.ckpt/checkpoint" / shard.name)
        ]
        for state in saved:
            for key in ("loops", "callbacks"):  # Lightning's count of begun epochs, and paths
                state.pop(key, None)
        assert differences(*saved, shard.name) == []
    assert not list(tmp_path.glob("*/checkpoints/.*"))

    # A stand-alone evaluation sees what training saw, from the same shards.
    command(tmp_path, "validate", *configs, "--run_dir", "evaluated", "--ckpt_path", str(checkpoints / "step=8.ckpt"))
    assert evaluation(tmp_path / "evaluated") == evaluation(tmp_path / "whole")

    # The export holds the weights of the last checkpoint, bit for bit.
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "whole/export/last").state_dict()
    trained = whole_state_dict(checkpoints / "step=8.ckpt")
    assert {f"policy.lm.{name}" for name in exported} <= trained.keys()
    for name, value in exported.items():
        assert torch.equal(value, trained[f"policy.lm.{name}"]), name

    # So does an export of that checkpoint, by one process behind the run.
    command(tmp_path, "export", str(checkpoints / "step=8.ckpt"), "out", processes=1)
    files = [
        {path.name: path.read_bytes() for path in at.iterdir()}
        for at in (checkpoints.parent / "export/last", tmp_path / "out")
    ]
    assert files[0] == files[1]

    # Another number of processes cannot take up the shards of an optimizer.
    last = str(checkpoints / "step=8.ckpt")
    one = ["--trainer.devices", "1", "--ckpt_path", last, "--run_dir", "other"]
    output = command(tmp_path, "fit", *configs, *one, processes=1, succeeds=False)
    assert "was written by 2 processes under DeepSpeed, and 1 processes" in output
    one = ["--config", "plain.yaml", "--ckpt_path", last, "--run_dir", "other"]
    (tmp_path / "plain.yaml").write_text("trainer: {strategy: auto, devices: 1}")
    output = command(tmp_path, "validate", *configs, *one, processes=1, succeeds=False)
    assert "is a directory of DeepSpeed's shards" in output
