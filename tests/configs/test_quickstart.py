"""The quickstart, shortened, through every subcommand."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from laser_lightning.cli.command_line import main

SHORT = [
    "--config=quickstart",
    "--trainer.enable_progress_bar=false",
    "--data.train.init_args.size=64",
    "--data.val.arithmetic.init_args.size=6",
    "--data.test.arithmetic.init_args.size=6",
    "--data.predict.arithmetic.init_args.size=6",
    "--data.prompts_per_step=8",
    "--model.evaluation.samples=4",
    "--calibration.prompts=8",
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three steps."""
    directory = tmp_path_factory.mktemp("quickstart") / "run"
    steps = ["--trainer.max_steps=3", "--trainer.val_check_interval=2", "--checkpoint.every_n_train_steps=1"]
    assert main(["fit", *SHORT, *steps, f"--run_dir={directory}"]) == 0
    return directory


def test_fit_leaves_everything_that_the_readme_names(run_dir: Path) -> None:
    for name in (
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "solutions/train.jsonl",
        "solutions/val.jsonl",
        "figures/training.png",
        "figures/arithmetic_self_reward.png",
        "export/last/model.safetensors",
        "export/last/self_reward.json",
        "checkpoints/last.ckpt",
    ):
        assert (run_dir / name).stat().st_size > 0, name
    assert list(run_dir.glob("events.out.tfevents.*"))


def test_every_metric_is_explained(run_dir: Path) -> None:
    explained = set(re.findall(r"`([^` ]+)`", (Path(__file__).parents[2] / "docs/metrics.md").read_text()))
    names = next(csv.reader((run_dir / "metrics.csv").open()))
    bare = {re.sub(r"@\d+$", "@<k>", name.removeprefix("val/arithmetic/")) for name in names}
    bare = {re.sub("^(pass@1|self_verification/[a-z_]+)/.*", r"\1/<kind>", name) for name in bare}
    assert len(bare) > 45
    assert not bare - explained


def test_fit_evaluates_before_the_first_step_and_at_the_end(run_dir: Path) -> None:
    rows = list(csv.DictReader((run_dir / "metrics.csv").open()))
    assert [row["step"] for row in rows if row["val/arithmetic/pass@1"]] == ["0", "2", "3"]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["start"]["step"] == 0
    assert summary["end"]["step"] == 3
    # The embedded model solves a good part of the problems, and knows nothing of their rewards yet.
    assert summary["start"]["sets"]["arithmetic"]["pass@1"] > 0.2
    assert abs(float(rows[-1]["val/arithmetic/self_verification/ece"])) <= 1


def test_the_export_is_a_transformers_model_with_the_checkpoints_weights(run_dir: Path) -> None:
    lm = AutoModelForCausalLM.from_pretrained(run_dir / "export/last")
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    for name, value in lm.state_dict().items():
        assert torch.equal(value, checkpoint[f"policy.lm.{name}"]), name
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "export/last")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1+2"}], add_generation_prompt=True, tokenize=False
    )
    assert prompt == "1+2="
    settings = json.loads((run_dir / "export/last/self_reward.json").read_text())
    assert settings["reference_constant"] == pytest.approx(float(checkpoint["self_reward.reference_constant"]))


@pytest.mark.parametrize(("command", "stage"), [("validate", "val"), ("test", "test")])
def test_evaluation_of_a_checkpoint(run_dir: Path, tmp_path: Path, command: str, stage: str) -> None:
    options = [f"--run_dir={tmp_path / 'run'}", f"--ckpt_path={run_dir / 'checkpoints/last.ckpt'}"]
    assert main([command, *SHORT, *options]) == 0
    row = next(csv.DictReader((tmp_path / "run/metrics.csv").open()))
    ours = float(row[f"{stage}/arithmetic/pass@1"])
    if stage == "val":
        theirs = json.loads((run_dir / "summary.json").read_text())["end"]["sets"]["arithmetic"]["pass@1"]
        assert ours == pytest.approx(theirs), "the evaluation draws the same samples at every step and in every process"
    folder = tmp_path / "run/evaluation"
    report = next(csv.DictReader((folder / f"{stage}.csv").open()))
    assert (report["set"], report["problems"], report["samples"]) == ("arithmetic", "6", "4")
    logged = {name: row[f"{stage}/arithmetic/{name}"] for name in report if f"{stage}/arithmetic/{name}" in row}
    assert {"pass@1", "maj@4", "self_verification/auroc", "reward", "response/tokens", "seconds"} <= logged.keys()
    undefined = {name for name, value in logged.items() if value == "nan"}
    assert {name: float(report[name]) for name in logged if name not in undefined} == {
        name: float(value) for name, value in logged.items() if name not in undefined
    }
    for name in (f"{stage}.json", f"{stage}_curves.csv", f"{stage}_curves.png"):
        assert (folder / name).stat().st_size > 0, name


def test_predict_writes_solutions_with_scores(run_dir: Path, tmp_path: Path) -> None:
    options = [f"--run_dir={tmp_path / 'run'}", f"--ckpt_path={run_dir / 'checkpoints/last.ckpt'}"]
    assert main(["predict", *SHORT, *options]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run/solutions/predict.jsonl").open()]
    records = [json.loads(line) for line in (tmp_path / "run/predictions/arithmetic.jsonl").open()]
    assert [len(record["solutions"]) for record in records] == [len(lines) // 6] * 6
    assert len(lines) == 6 * 4
    assert all(isinstance(line["self_reward"], float) for line in lines)


def test_grpo_has_no_self_rewarding_loss(tmp_path: Path) -> None:
    steps = ["--config=baselines/grpo", "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    assert main(["fit", *SHORT, *steps, f"--run_dir={tmp_path / 'run'}"]) == 0
    row = next(row for row in csv.DictReader((tmp_path / "run/metrics.csv").open()) if row["train/loss"])
    assert float(row["train/self_reward_loss"]) == 0.0
    assert row["train/self_reward/auroc"], "the score is still measured"
