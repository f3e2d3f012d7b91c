"""The packaged overlays of whole modules train, each as it is named."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from laser_lightning.cli.command_line import main

# The random model of the tiny run writes "a" here and there, and knows no other form.
FORMS = {
    "deepseekmath_v2": (
        'model: {self_evaluation: {separator: "a", score_pattern: "^()", scores: {"": 1.0}, default_score: null}}'
    ),
    "spoc": 'model: {self_correction: {verification_pattern: "(a)", correct_verdict: "b"}}',
    "rlpr": 'model: {reference_answer: {answer_pattern: "(a)", format_pattern: ".*"}}',
    "rise_four_verifications": "{}",
    "rise_own_rewards": "{}",
}
LOGGED = {
    "deepseekmath_v2": "train/self_evaluation/format_rate",
    "spoc": "train/self_correction/first_reward",
    "rlpr": "train/reference_answer/direct_probability",
    "rise_four_verifications": "train/verification/response_tokens",
    "rise_own_rewards": "train/policy_reward",
}


@pytest.mark.parametrize("name", FORMS)
def test_an_overlay_trains(name: str, tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    (tmp_path / "form.yaml").write_text(FORMS[name])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--calibration=null", "--export=null"]
    options += ["--model.self_reward.init_args.reference=-5", "--model.verification.workers=0"]
    options += ["--model.optimizer.warmup_steps=0", "--checkpoint=null", "--run_dir=run"]
    overlays = ["--config=run.yaml", f"--config=methods/{name}", "--config=form.yaml"]
    assert main(["fit", *overlays, *options]) == 0
    rows = list(csv.DictReader(Path("run/metrics.csv").read_text().splitlines()))
    row = next(row for row in rows if row["train/loss"])
    assert float(row["train/gradient_norm"]) > 0.0
    assert float(row["train/self_reward_loss"]) == 0.0
    assert row[LOGGED[name]]
    assert any(row["val/sums/pass@1"] for row in rows)
    # What the overlay sets is what the run was made with.
    wanted = yaml.safe_load((Path(__file__).parents[2] / "configs" / "methods" / f"{name}.yaml").read_text())["model"]
    made = yaml.safe_load(Path("run/config.yaml").read_text())["model"]
    assert made["class_path"].rpartition(".")[2] == wanted["class_path"].rpartition(".")[2]
    assert made["init_args"]["self_reward"]["init_args"]["loss_weight"] == 0.0


def test_a_typo_below_a_module_of_its_own_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    overlay = ["fit", "--config=quickstart", "--config=methods/spoc"]
    assert main([*overlay, "--model.self_correction.correct_verdikt=1"]) != 0
    assert "correct_verdict" in capsys.readouterr().err
    assert main([*overlay, "--model.groop_size=4"]) != 0
    assert "group_size" in capsys.readouterr().err


def test_a_resumed_run_drops_the_groups_that_the_other_dropped(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    (tmp_path / "form.yaml").write_text(FORMS["rlpr"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--trainer.max_steps=3", "--trainer.limit_val_batches=0", "--calibration=null", "--export=null"]
    options += ["--model.self_reward.init_args.reference=-5", "--model.verification.workers=0"]
    options += ["--model.update.mini_batches=1", "--model.optimizer.warmup_steps=0"]
    options += ["--checkpoint.every_n_train_steps=1"]
    (tmp_path / "filter.yaml").write_text(
        "model: {advantage: {shaping: [{class_path: laser_lightning.DropLowSpread, init_args: {first_steps: 1}}]}}"
    )
    overlays = ["--config=run.yaml", "--config=methods/rlpr", "--config=form.yaml", "--config=filter.yaml"]
    assert main(["fit", *overlays, *options, "--run_dir=whole"]) == 0
    assert main(["fit", *overlays, *options, "--run_dir=again", "--ckpt_path=whole/checkpoints/step=1.ckpt"]) == 0
    one, two = (torch.load(f"{run}/checkpoints/step=3.ckpt", weights_only=True) for run in ("whole", "again"))
    state = one["laser_objective_parts"]["advantage.shaping.0"]
    assert state == two["laser_objective_parts"]["advantage.shaping.0"]
    assert state["steps"] == 3
    assert state["average"] > 0
    assert all(torch.equal(value, two["state_dict"][name]) for name, value in one["state_dict"].items())
