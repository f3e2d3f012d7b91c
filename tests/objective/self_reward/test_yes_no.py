"""Self-verification by cross-entropy on z_yes and z_no: score, loss by hand, tokens, training, and use of an export."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from laser_lightning.callbacks import ReferenceConstantCalibration
from laser_lightning.cli.command_line import main
from laser_lightning.errors import UserError
from laser_lightning.inference.scorer import LaSeRScorer
from laser_lightning.objective.self_reward.head import Readings
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.objective.self_reward.solutions import StepSolutions, Supervision
from laser_lightning.objective.self_reward.yes_no import YesNoSelfReward
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts, micro_batches
from laser_lightning.rollout import Sampling, TransformersEngine

EOS, YES, NO = 1, 60, 49  # of the character tokenizer: ord("Y") - ord("!") + 4


def bound(**fields: Any) -> YesNoSelfReward:
    head = YesNoSelfReward(**({"yes_token": "Y", "no_token": "N"} | fields))
    head.token_ids = (YES, NO)
    return head


def test_the_score_is_the_probability_of_yes() -> None:
    scores = bound().score(Readings(torch.tensor([math.log(0.9), math.log(0.25), -200.0, torch.nan])[:, None]))
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.25, 0.0, torch.nan]), equal_nan=True)
    assert not bound().is_exact


def test_rollouts_read_yes_and_the_loss_both() -> None:
    assert (bound().score_token_ids, bound().token_ids) == ((YES,), (YES, NO))


def test_correct_solutions_train_yes_and_others_no() -> None:
    log_probs = torch.zeros(5, 2, requires_grad=True)
    bound().loss(Readings(log_probs), Supervision(torch.tensor([1.0, 0.0, 0.51, 0.5, -3.0]), torch.ones(5))).backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [[-1, 0], [0, -1], [-1, 0], [0, -1], [0, -1]]


def test_loss_by_hand(step_solutions: Callable[..., StepSolutions]) -> None:
    # Two correct solutions with pi(z_yes) = 1/2 and 1/4, an incorrect one with pi(z_no) = 1/8, a truncated one. Weights
    # 1/4, 1/4, 1/2: (1/4 + 2/4 + 3/2) log 2 = 2.25 log 2; derivatives by the log-probs are minus the weights.
    both = [[0.5, 0.3], [0.25, 0.3], [0.3, 0.125], [torch.nan, torch.nan]]
    log_probs = torch.tensor(both).log().requires_grad_()
    rewards, finished = torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([True, True, True, False])
    head = bound()
    step = step_solutions(rewards, finished)
    loss = head.loss(Readings(log_probs), head.supervise(step))
    torch.testing.assert_close(loss, torch.tensor(2.25 * math.log(2)))
    expected = torch.tensor([[-0.25, 0.0], [-0.25, 0.0], [0.0, -0.5], [0.0, 0.0]])
    torch.testing.assert_close(torch.autograd.grad(loss, log_probs)[0], expected)
    unweighted = bound(class_weights=False)
    loss = unweighted.loss(Readings(log_probs.detach()), unweighted.supervise(step))
    torch.testing.assert_close(loss, torch.tensor(2 * math.log(2)))  # (1 + 2 + 3) log 2 / 3


def test_a_vanishing_probability_has_a_finite_loss_and_gradient() -> None:
    log_probs = torch.tensor([[-200.0, -1.0]], requires_grad=True)  # exp(-200) is 0 in float32
    loss = bound().loss(Readings(log_probs), Supervision(torch.tensor([1.0]), torch.tensor([1.0])))
    assert loss.item() == 200.0
    assert torch.autograd.grad(loss, log_probs)[0].tolist() == [[-1.0, 0.0]]


def test_a_step_down_the_gradient_raises_yes_where_correct_and_no_where_not(
    make_policy: Callable[..., Policy],
    make_rollouts: Callable[..., Rollouts],
    step_solutions: Callable[..., StepSolutions],
) -> None:
    policy, rollouts, head = make_policy(), make_rollouts(), bound()
    finished = rollouts.finished
    rewards = (torch.arange(len(rollouts)) % 2).float()
    weights = head.supervise(step_solutions(rewards, finished)).weights
    (batch,) = micro_batches(rollouts, torch.arange(len(rollouts)), 10_000, 0)
    rewards, weights = rewards[batch.rows], weights[batch.rows]

    def log_probs() -> torch.Tensor:
        return policy(batch, head.token_ids).reward_token_log_probs

    before = log_probs()
    each = [policy(batch, (token,)).reward_token_log_probs for token in (YES, NO)]
    torch.testing.assert_close(before, torch.cat(each, dim=1), rtol=0, atol=1e-6)
    head.loss(Readings(before), Supervision(rewards, weights)).backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter -= 0.01 * parameter.grad
        change = log_probs() - before
    for column, of_class in ((0, rewards == 1), (1, rewards == 0)):
        assert change[of_class & (weights > 0), column].mean() > 0.01


# ------------------------------------------------------------------- the tokens


def test_bind_finds_both_tokens(policy_tokenizer: PreTrainedTokenizerBase) -> None:
    head = YesNoSelfReward("Y", "N")
    head.bind(policy_tokenizer, (EOS,))
    assert head.token_ids == (YES, NO)
    assert (head.token, head.token_id) == ("Y", YES)


@pytest.mark.parametrize(
    ("yes", "no", "sentence"),
    [
        ("Y", "Y", "self_reward.yes_token and self_reward.no_token are the same token 'Y'"),
        ("Y", "No", "self_reward.no_token is 'No', which the tokenizer splits into 2 tokens"),
        ("Yes", "N", "self_reward.yes_token is 'Yes', which the tokenizer splits into 3 tokens"),
        ("Y", "<|eos|>", "self_reward.no_token is '<|eos|>', which ends or pads"),
        ("<|unknown|>", "N", "self_reward.yes_token is '<|unknown|>', which the tokenizer does not know"),
    ],
)
def test_bind_refuses_tokens_that_cannot_serve(
    policy_tokenizer: PreTrainedTokenizerBase, yes: str, no: str, sentence: str
) -> None:
    with pytest.raises(UserError) as refusal:
        YesNoSelfReward(yes, no).bind(policy_tokenizer, (EOS,))
    assert sentence in str(refusal.value)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(UserError, match="loss_weight is -1"):
        YesNoSelfReward("Y", "N", loss_weight=-1)


# ----------------------------------------------------- one score, wherever it is read


def test_the_engines_score_is_that_of_the_differentiable_pass(make_policy: Callable[..., Policy]) -> None:
    policy, head, generator = make_policy(eos_bias=3.5), bound(), torch.Generator().manual_seed(0)
    prompts = [[20, 15, 21, 33], [27, 33]]
    rollouts = TransformersEngine().generate(
        policy, prompts, 8, Sampling(12, temperature=0.7), head.score_token_ids, generator
    )
    (batch,) = micro_batches(rollouts, torch.arange(len(rollouts)), 10_000, 0)
    outputs = policy(batch, head.token_ids, 0.7)
    finished = rollouts.finished[batch.rows]
    assert 0 < finished.sum() < len(rollouts)
    engine = head.score(Readings(rollouts.reward_token_log_probs))[batch.rows]
    assert engine.isnan().equal(~finished)
    torch.testing.assert_close(
        engine[finished], head.score(Readings(outputs.reward_token_log_probs))[finished].detach(), rtol=1e-4, atol=0
    )


def test_a_scorer_of_an_export(tmp_path: Path, policy_dir: Path, plain_pass: Callable[..., Any]) -> None:
    export = Path(shutil.copytree(policy_dir, tmp_path / "export"))
    SelfRewardSettings.of(bound(), step=5).save(export)
    saved = json.loads((export / "self_reward.json").read_text())
    assert (saved["token"], saved["token_id"], saved["no_token"], saved["beta"]) == ("Y", YES, "N", None)
    scorer = LaSeRScorer.from_pretrained(export)
    lm = AutoModelForCausalLM.from_pretrained(export)
    for solution in scorer.score(["1+2=", "9="], ["3", "9-9"]):
        prompt = scorer.tokenizer.encode("1+2=" if solution.text == "3" else "9=")
        log_prob = plain_pass(lm, prompt, solution.token_ids).after_last[YES].item()
        assert solution.reward_token_log_prob == pytest.approx(log_prob, abs=1e-5)
        assert solution.self_reward == pytest.approx(math.exp(log_prob), rel=1e-4)
        assert solution.verdict == (math.exp(log_prob) > 0.5)
    with pytest.raises(UserError, match="a probability for a score, so its scores take no reference model"):
        LaSeRScorer.from_pretrained(export, reference="embedded")


def test_exports_of_older_formats_are_read(tmp_path: Path) -> None:
    settings = SelfRewardSettings("<|reward|>", 3, 0.25, -9.0, step=5)
    settings.save(tmp_path)
    values = json.loads((tmp_path / "self_reward.json").read_text())
    for version, absent in ((2, "low_token"), (1, "no_token")):
        del values[absent]
        (tmp_path / "self_reward.json").write_text(json.dumps(values | {"format_version": version}))
        assert SelfRewardSettings.read(tmp_path) == settings
    # Version 3 without the keys is of another form.
    (tmp_path / "self_reward.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="reads version 3 with the keys"):
        SelfRewardSettings.read(tmp_path)


# --------------------------------------------------------------------- whole runs


def test_a_run_its_resumption_and_its_export(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--config=run.yaml", "--model.verification.workers=0", "--trainer.limit_val_batches=0"]
    options.append("--model.update.mini_batches=1")
    supervised = [*options, "--config=baselines/supervised"]
    assert main(["fit", *supervised, "--run_dir=whole", "--trainer.max_steps=8"]) == 0
    lines = Path("whole/metrics.csv").read_text().splitlines()
    rows = [row for row in csv.DictReader(lines) if row["train/loss"]]
    assert float(rows[0]["train/self_reward_loss"]) == 0.0  # reasoning alone
    assert float(rows[-1]["train/self_reward_loss"]) > 0.0
    assert all(0 <= float(row["train/self_reward/mean"]) <= 1 for row in rows)
    # The engine reads z_yes alone, which is compared.
    assert 0 < max(float(row["train/mismatch/reward_token_log_prob"]) for row in rows) < 1e-4
    assert SelfRewardSettings.load("whole/export/last").no_token == "N"

    checkpoint = "--ckpt_path=whole/checkpoints/step=4.ckpt"
    assert main(["fit", *supervised, "--run_dir=resumed", "--trainer.max_steps=8", checkpoint]) == 0
    ours, theirs = (Path(run, "export/last/model.safetensors").read_bytes() for run in ("resumed", "whole"))
    assert ours == theirs
    assert main(["export", "whole/checkpoints/step=4.ckpt", "out"]) == 0
    assert SelfRewardSettings.load("out").no_token == "N"

    capsys.readouterr()
    other = ["--run_dir=other", checkpoint, "--allow_changes=model.self_reward"]
    assert main(["fit", *supervised, *other, "--model.self_reward.init_args.no_token=M"]) == 2
    assert "its reward token is 'Y / N', and the configured one is 'Y / M'" in capsys.readouterr().err
    assert main(["fit", *options, *other]) == 2
    assert "'Y / N', and the configured one is '<|reward|>'" in capsys.readouterr().err


def test_the_calibration_steps_aside(caplog: pytest.LogCaptureFixture) -> None:
    class Module(torch.nn.Module):
        self_reward = bound()

    with caplog.at_level("INFO"):
        ReferenceConstantCalibration().setup(Trainer(logger=False), Module(), "fit")  # type: ignore[arg-type]
    assert "YesNoSelfReward has no reference constant" in caplog.text
