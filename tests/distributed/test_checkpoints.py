"""Checkpoints of DeepSpeed through the command line: resume, evaluation, refusals, export."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from laser_lightning.checkpoints import whole_state_dict
from laser_lightning.policy import model_path

pytestmark = pytest.mark.distributed


def evaluation(run: Path) -> dict[str, str]:
    """The last evaluation in a run's metrics."""
    rows = [row for row in csv.DictReader((run / "metrics.csv").open()) if row["val/sums/pass@1"]]
    return {name: value for name, value in rows[-1].items() if name.startswith("val/")}


@pytest.mark.parametrize(("strategy", "nodes"), [("zero2", 2), ("zero3", 1)])
def test_resume_evaluate_and_export(
    strategy: str,
    nodes: int,
    command: Callable[..., str],
    experiment: Path,
    difference: Callable[[Path, Path], list[str]],
) -> None:
    tmp_path = experiment
    configs = ["--config", f"strategy/{strategy}", "--config", "run.yaml"]
    # Two processes on one node, or on each of two nodes one (two torchrun agents on loopback).
    processes = 2 // nodes
    fit = ["fit", *configs, "--trainer.num_nodes", str(nodes), "--trainer.devices", str(processes)]
    command(tmp_path, *fit, "--run_dir", "whole", processes=processes, nodes=nodes)
    checkpoints = tmp_path / "whole/checkpoints"

    # Behind step 4 the killed run was writing its next checkpoint.
    resumed = tmp_path / "resumed/checkpoints"
    shutil.copytree(checkpoints / "step=4.ckpt", resumed / "step=4.ckpt")
    (resumed / "step=6.ckpt/checkpoint").mkdir(parents=True)
    again = [*fit, "--run_dir", "resumed", "--ckpt_path", "last"]
    output = command(tmp_path, *again, processes=processes, nodes=nodes)
    assert "step=6.ckpt was never finished" in output
    assert "Restored all states from the checkpoint" in output
    assert not list(resumed.glob("*-v1.ckpt"))
    shards = sorted((checkpoints / "step=8.ckpt/checkpoint").glob("*.pt"))
    assert len(shards) == (3 if strategy == "zero2" else 4)
    assert difference(checkpoints / "step=8.ckpt", resumed / "step=8.ckpt") == []
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
    one = ["--config", "single.yaml", "--ckpt_path", last, "--run_dir", "other"]
    output = command(tmp_path, "validate", *configs, *one, processes=1, succeeds=False)
    assert "is a directory of DeepSpeed's shards" in output


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_adapters_are_saved_resumed_and_exported(
    strategy: str, command: Callable[..., str], experiment: Path, difference: Callable[[Path, Path], list[str]]
) -> None:
    lines = (experiment / "run.yaml").read_text().splitlines()
    kept = [line for line in lines if "random_init" not in line and "config_overrides" not in line]
    (experiment / "run.yaml").write_text("\n".join(kept))
    adapters = ["--model.policy.lora.rank", "4", "--model.update.kl_coef", "0.1", "--trainer.max_steps", "6"]
    fit = ["fit", "--config", f"strategy/{strategy}", "--config", "run.yaml", *adapters]
    every = ["--checkpoint.every_n_train_steps", "2", "--trainer.limit_val_batches", "0"]
    command(experiment, *fit, *every, "--run_dir", "whole")
    last = experiment / "whole/checkpoints/step=6.ckpt"
    trained = whole_state_dict(last)
    assert {name for name in trained if ".lora_" not in name} == {"self_reward.reference_constant"}
    assert len(trained) == 3 * 7 * 2 + 1  # layers, their linear ones, A and B

    middle = str(experiment / "whole/checkpoints/step=2.ckpt")
    command(experiment, *fit, *every, "--run_dir", "resumed", "--ckpt_path", middle)
    assert difference(last, experiment / "resumed/checkpoints/step=6.ckpt") == []

    # The run's export is that of the checkpoint, by one process behind the run.
    command(experiment, "export", str(last), "merged", processes=1)
    merged = load_file(experiment / "merged/model.safetensors")
    theirs = load_file(experiment / "whole/export/last/model.safetensors")
    assert merged.keys() == theirs.keys()
    assert all(torch.equal(merged[name], theirs[name]) for name in merged)
    layer = "model.layers.2.mlp.down_proj"
    base = load_file(Path(model_path("embedded")) / "model.safetensors")
    inner, outer = (trained[f"policy.lm.{layer}.lora_{half}.default.weight"] for half in "AB")
    torch.testing.assert_close(merged[f"{layer}.weight"], base[f"{layer}.weight"] + 8.0 * outer @ inner)  # 32 / 4
    assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    command(experiment, "export", str(last), "adapter", "--adapter", processes=1)
    adapter = load_file(experiment / "adapter/adapter_model.safetensors")
    for name, value in adapter.items():
        saved = name.replace("base_model.model", "policy.lm").replace(".weight", ".default.weight")
        assert torch.equal(value, trained[saved]), name
    assert len(adapter) == 3 * 7 * 2
