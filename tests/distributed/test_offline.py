"""The offline stage on two processes is that on one, where problems differ in their numbers of solutions."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.distributed

NAMES = (
    "train/loss",
    "train/supervised_loss",
    "train/self_reward_loss",
    "train/self_reward/auroc_within",
    "train/solutions",
    "val/sums/loss",
    "val/sums/self_verification/f1",
    "val/sums/self_verification/auroc_within",
)


def write_rows(directory: Path) -> None:
    """Twelve problems with one to four solutions, right, wrong, and worked ones; and one for validation."""
    rows = [
        {
            "q": f"{a}+{a}",
            "response": "0;" * (a % 3) + f"#{2 * a + slip}",
            "score": None if a == 7 else float(slip == 0),
        }
        for a in range(1, 13)
        for slip in range(1 + a % 4)
    ]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if row["q"] == "3+3"))
    columns = {"problem_column": "q", "answer_column": None, "solution_column": "response", "reward_column": "score"}
    train, val = (
        {"class_path": "laser_lightning.data.FileSource", "init_args": {"path": f"{name}.jsonl", **columns}}
        for name in ("rows", "few")
    )
    data = {"train": train, "val": {"sums": val, "arithmetic": None}}
    (directory / "rows.yaml").write_text(json.dumps({"data": data}))


def values(run: Path) -> dict[str, list[float]]:
    """What a run logged, by name."""
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    return {name: [float(row[name]) for row in rows if row.get(name)] for name in NAMES}


def test_two_processes_learn_what_one_learns(command: Callable[..., str], tmp_path: Path) -> None:
    write_rows(tmp_path)
    options = [
        "--config=rows.yaml",
        "--model.policy.random_init=true",
        "--model.policy.config_overrides={hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1}",
        "--model.self_reward.init_args.beta=0.5",
        "--model.optimizer.warmup_steps=1",
        "--model.micro_batch_sequences=3",
        "--model.solutions_per_problem=3",
        "--data.prompts_per_step=4",
        "--trainer.max_steps=3",
        "--trainer.val_check_interval=3",
        "--trainer.enable_progress_bar=false",
        "--export.init_args.monitor=null",
        "--calibration.init_args.max_emission_rate=1.0",
        "--summary=null",
    ]
    fit = ["fit", "--config=offline"]
    command(tmp_path, *fit, *options, "--run_dir=one", processes=1)
    command(tmp_path, *fit, "--config=strategy/ddp", "--trainer.devices=2", *options, "--run_dir=two")
    one, two = values(tmp_path / "one"), values(tmp_path / "two")
    assert [len(one[name]) for name in NAMES[:5]] == [3] * 5
    for name in NAMES:
        assert one[name], name
        assert two[name] == pytest.approx(one[name], rel=1e-5, nan_ok=True), name
    constants = [
        json.loads((tmp_path / run / "export/last/self_reward.json").read_text())["reference_constant"]
        for run in ("one", "two")
    ]
    assert constants[1] == pytest.approx(constants[0], rel=1e-6)
