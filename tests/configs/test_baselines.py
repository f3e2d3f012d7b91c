"""The packaged baselines train, each with the loss and the advantages that it is named for."""

import csv
import shutil
from pathlib import Path

import pytest
import yaml

from laser_lightning.cli.command_line import main

BASELINES = sorted(path.stem for path in (Path(__file__).parents[2] / "configs" / "baselines").glob("*.yaml"))


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_trains(name: str, tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--calibration=null", "--export=null"]
    if name not in ("supervised", "two_token"):  # which have no reference
        options.append("--model.self_reward.init_args.reference=-5")
    options += [
        "--model.verification.workers=0",
        "--model.optimizer.warmup_steps=0",
        "--model.phases.reasoning_steps=0",
        "--checkpoint=null",
        "--run_dir=run",
    ]
    assert main(["fit", "--config=run.yaml", f"--config=baselines/{name}", *options]) == 0
    row = next(row for row in csv.DictReader(Path("run/metrics.csv").read_text().splitlines()) if row["train/loss"])
    trains_the_score = name in ("published", "supervised", "two_token", "without_mixing", "trust_weighted_mixing")
    assert (float(row["train/self_reward_loss"]) > 0.0) == trains_the_score
    assert float(row["train/gradient_norm"]) > 0.0
    # What the overlay sets is what the run was made with.
    wanted = yaml.safe_load((Path(__file__).parents[2] / "configs" / "baselines" / f"{name}.yaml").read_text())
    made = yaml.safe_load(Path("run/config.yaml").read_text())
    assert contains(made["model"], {"class_path": "laser_lightning.LaSeRModule"} | wanted["model"])


def contains(whole: object, part: object) -> bool:
    """Whether every value of nested mappings is in the other one."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(contains(whole.get(key), value) for key, value in part.items())
    return whole == part
