"""Checkpoints of DeepSpeed through the command line: resume, evaluation, refusals, export."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from laser_lightning import LaSeRModule
from laser_lightning.policy.model import model_path
from laser_lightning.runs.checkpoints import whole_state_dict

pytestmark = pytest.mark.distributed


def evaluation(run: Path, file: str = "metrics.csv") -> dict[str, str]:
    """The last evaluation in a run's metrics, but for the clock's."""
    rows = [row for row in csv.DictReader((run / file).open()) if row["val/sums/pass@1"]]
    return {name: value for name, value in rows[-1].items() if name.startswith("val/") and "second" not in name}


@pytest.mark.parametrize(("strategy", "nodes"), [("zero2", 2), ("zero3", 2)])
def test_resume_evaluate_and_export(
    strategy: str,
    nodes: int,
    command: Callable[..., str],
    experiment: Path,
    difference: Callable[[Path, Path], list[str]],
    monkeypatch: pytest.MonkeyPatch,
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

    # So does the module that Python loads of the shards.
    monkeypatch.syspath_prepend(experiment)
    module = LaSeRModule.load_from_checkpoint(checkpoints / "step=8.ckpt")
    for name, value in module.policy.lm.state_dict().items():
        assert torch.equal(value, exported[name]), name

    # So does an export of that checkpoint, by one process behind the run.
    command(tmp_path, "export", str(checkpoints / "step=8.ckpt"), "out", processes=1)
    files = [
        {path.name: path.read_bytes() for path in at.iterdir()}
        for at in (checkpoints.parent / "export/last", tmp_path / "out")
    ]
    assert files[0] == files[1]

    # One process without DeepSpeed evaluates the shards too, and goes on from them.
    alone = ["--config", "single.yaml", "--ckpt_path", "last"]
    command(tmp_path, "validate", *configs, *alone, "--run_dir", "whole", processes=1)
    evaluated = evaluation(tmp_path / "whole", "metrics.validate.csv")
    output = command(tmp_path, "fit", *configs, *alone, "--run_dir", "whole", processes=1)
    assert f"was written by 2 processes under ZeRO-{strategy[-1]}, and this run is another" in output
    assert "weights, the optimizer's moments, reference constant, step, schedule and position in the data" in output
    assert evaluation(tmp_path / "whole") == evaluated
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole/export/last").state_dict()
    assert all(torch.equal(value, exported[name]) for name, value in again.items())

    # It predicts from them as from the export.
    predict = ["predict", *configs, "--config", "single.yaml"]
    predict += ["--solution_log", "laser_lightning.callbacks.SolutionLog"]
    command(tmp_path, *predict, "--run_dir", "shards", "--ckpt_path", str(checkpoints / "step=8.ckpt"), processes=1)
    export = ["--model.policy.path", "whole/export/last", "--model.self_reward.init_args.reference=-5"]
    export += ["--model.policy.random_init=false", "--model.policy.config_overrides={}"]
    command(tmp_path, *predict, *export, "--run_dir", "export", processes=1)
    solutions = [
        [json.loads(line)["response"] for line in (tmp_path / run / "solutions/predict.jsonl").open()]
        for run in ("shards", "export")
    ]
    assert len(solutions[0]) == 6
    assert solutions[0] == solutions[1]


def test_weights_step_and_constant_carry_over_to_other_strategies(
    launch: Callable[..., list[Any]], policy_dir: Path, tmp_path: Path
) -> None:
    # SGD has no state to lose, and the rollouts are given: the runs below are parts of one run of five steps.
    shared = {
        "policy": str(policy_dir),
        "directory": str(tmp_path),
        "max_grad_norm": 1.0,
        "kinds": [["mixed", "mixed"]] * 5,
        "budgets": [50] * 5,
    }

    def part(
        strategy: str, first: int, last: int, resume: str | None = None, save: str | None = None
    ) -> dict[str, Any]:
        spec = {**shared, "strategy": strategy, "first_round": first, "max_steps": last}
        spec |= {"resume": str(tmp_path / resume)} if resume else {}
        return spec | ({"save": str(tmp_path / save)} if save else {})

    whole, other = launch("several", [part("single", 0, 5), {**part("single", 0, 1, save="a.ckpt")}], processes=1)[0]
    assert [rollout["step"] for rollout in other] == [1]
    chain = [
        part("zero3", 1, 2, "a.ckpt", "b.ckpt"),
        part("zero2", 2, 3, "b.ckpt", "c.ckpt"),
        part("ddp", 3, 4, "c.ckpt", "d.ckpt"),
        part("zero1", 4, 5, "d.ckpt"),
        part("zero3", 3, 4, "c.ckpt"),
    ]
    for rank in launch("several", chain):
        for number, (spec, history) in enumerate(zip(chain, rank, strict=True)):
            assert [rollout["step"] for rollout in history] == [spec["max_steps"]], number
            expected = whole[spec["first_round"]]["weights"]
            off = max(float((history[0]["weights"][name] - expected[name]).abs().max()) for name in expected)
            assert off < 1e-6, (number, off)
    for history, expected in zip(
        launch("several", [part("single", 2, 3, "b.ckpt"), part("single", 3, 4, "c.ckpt")], processes=1)[0],
        whole[2:4],
        strict=True,
    ):
        for name, value in expected["weights"].items():
            assert torch.allclose(history[0]["weights"][name], value, rtol=0, atol=1e-6), name


def test_adapters_are_saved_resumed_and_exported(
    command: Callable[..., str], experiment: Path, difference: Callable[[Path, Path], list[str]]
) -> None:
    config = yaml.safe_load((experiment / "run.yaml").read_text())
    config["model"]["init_args"]["policy"] = {"path": "embedded"}
    (experiment / "run.yaml").write_text(yaml.safe_dump(config))
    adapters = ["--model.policy.lora.rank", "4", "--model.update.kl_coef", "0.1", "--trainer.max_steps", "6"]
    fit = ["fit", "--config", "strategy/zero3", "--config", "run.yaml", *adapters]
    every = ["--checkpoint.every_n_train_steps", "2", "--trainer.limit_val_batches", "0"]
    command(experiment, *fit, *every, "--run_dir", "whole")
    last = experiment / "whole/checkpoints/step=6.ckpt"
    trained = whole_state_dict(last)
    assert {name for name in trained if ".lora_" not in name} == {"self_reward.reference_constant"}
    assert len(trained) == 5 * 7 * 2 + 1  # layers, their linear ones, A and B

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
    assert len(adapter) == 5 * 7 * 2
