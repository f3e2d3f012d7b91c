"""Confidence from two tokens: score and loss by hand, the tokens, the export, and a run."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from laser_lightning import LaSeRScorer, TwoTokenSelfReward
from laser_lightning.cli.command_line import main
from laser_lightning.objective.self_reward.head import Readings
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.objective.self_reward.solutions import StepSolutions, Supervision

YES, NO = 60, 49  # of the character tokenizer: ord("Y") - ord("!") + 4


def bound(**fields: Any) -> TwoTokenSelfReward:
    head = TwoTokenSelfReward(high_token="Y", low_token="N", **fields)
    head.token_ids = (YES, NO)
    return head


def test_the_score_by_hand() -> None:
    # pi(z_high) : pi(z_low) = 3 : 1 is a confidence of 3/4, whatever the other tokens have; 1 : 1 is 1/2.
    probabilities = torch.tensor([[0.03, 0.01], [0.75, 0.25], [1e-8, 1e-8], [torch.nan, torch.nan]])
    scores = bound().score(Readings(probabilities.log()))
    torch.testing.assert_close(scores, torch.tensor([0.75, 0.75, 0.5, torch.nan]), equal_nan=True)


def test_the_score_reads_both_tokens() -> None:
    assert bound().score_token_ids == bound().token_ids == (YES, NO)


def test_loss_and_gradient_by_hand() -> None:
    # Confidences 3/4 and 1/2, targets 1 and 0, weights 2 and 1: 2/16 + 1/4. By the difference of the log-probs the
    # derivatives are 2 * 2 * (-1/4) * 3/4 * 1/4 = -3/16 and 1 * 2 * 1/2 * 1/4 = 1/4, with the other sign by z_low.
    log_probs = torch.tensor([[0.3, 0.1], [0.2, 0.2], [torch.nan, torch.nan]]).log().requires_grad_()
    loss = bound().loss(Readings(log_probs), Supervision(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([2.0, 1.0, 0.0])))
    torch.testing.assert_close(loss, torch.tensor(0.375))
    loss.backward()
    torch.testing.assert_close(log_probs.grad, torch.tensor([[-3 / 16, 3 / 16], [0.25, -0.25], [0.0, 0.0]]))


def test_classes_weigh_half_each(step_solutions: Callable[..., StepSolutions]) -> None:
    step = step_solutions(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert bound().supervise(step).weights.tolist() == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6])


def test_a_scorer_of_an_export(tmp_path: Path, policy_dir: Path, plain_pass: Callable[..., Any]) -> None:
    export = Path(shutil.copytree(policy_dir, tmp_path / "export"))
    SelfRewardSettings.of(bound(), step=5).save(export)
    saved = json.loads((export / "self_reward.json").read_text())
    assert (saved["token"], saved["token_id"], saved["low_token"], saved["beta"]) == ("Y", YES, "N", None)
    scorer = LaSeRScorer.from_pretrained(export)
    (solution,) = scorer.score(["1+2="], ["3"])
    lm = AutoModelForCausalLM.from_pretrained(export)
    after = plain_pass(lm, scorer.tokenizer.encode("1+2="), solution.token_ids).after_last
    assert solution.self_reward == pytest.approx((after[YES] - after[NO]).sigmoid().item(), abs=1e-6)


def test_a_run_and_its_resumption(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--config=run.yaml", "--model.verification.workers=0", "--trainer.limit_val_batches=0"]
    options += ["--model.update.mini_batches=1", "--config=baselines/two_token"]
    assert main(["fit", *options, "--run_dir=whole", "--trainer.max_steps=8"]) == 0
    checkpoint = "--ckpt_path=whole/checkpoints/step=4.ckpt"
    assert main(["fit", *options, "--run_dir=resumed", "--trainer.max_steps=8", checkpoint]) == 0
    ours, theirs = (Path(run, "export/last/model.safetensors").read_bytes() for run in ("resumed", "whole"))
    assert ours == theirs
    assert SelfRewardSettings.load("whole/export/last").low_token == "N"
    rows = [row for row in csv.DictReader(Path("whole/metrics.csv").read_text().splitlines()) if row["train/loss"]]
    assert float(rows[-1]["train/self_reward_loss"]) > 0.0
    assert 0 < max(float(row["train/mismatch/reward_token_log_prob"]) for row in rows) < 1e-4
