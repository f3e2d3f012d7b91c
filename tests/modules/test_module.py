"""The training step as a whole, on a tiny random model."""

import importlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from laser_lightning.callbacks import ReferenceConstantCalibration
from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.losses import PolicyLoss, PolicyTokens, TokenLosses, TruncatedImportance
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.advantages import AdvantageSettings
from laser_lightning.objective.phases import Phases
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.shaping.overlong import OverlongPenalty
from laser_lightning.policy.model import EMBEDDED, PolicySettings
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.verifiers import Verifier
from laser_lightning.verifiers.settings import VerificationSettings

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2}


class HashVerifier(Verifier):
    """Rewards responses at random, by a hash of their text: a random model needs luck to be right."""

    def extract(self, response: str) -> str | None:
        return response or None

    def equivalent(self, answer: str, gold: str) -> bool:
        return answer == gold

    def reward(self, response: str, gold: str) -> float:
        return float(zlib.crc32(response.encode()) % 2)


class ConstantVerifier(HashVerifier):
    """Gives every response the same reward."""

    def __init__(self, value: float) -> None:
        self.value = value

    def reward(self, response: str, gold: str) -> float:
        return self.value


FAILING_VERIFIER = """
import zlib
from laser_lightning.verifiers import Verifier

class FailingVerifier(Verifier):
    def extract(self, response):
        return response or None

    def equivalent(self, answer, gold):
        return answer == gold

    def reward(self, response, gold):
        number = zlib.crc32(response.encode()) % 8
        if number == 0:
            raise KeyError("no such answer")
        while number == 1:
            pass
        return float(number % 2)
"""


class NeverEndingEngine(TransformersEngine):
    """An engine whose responses all look truncated."""

    def generate(self, *args: Any, **options: Any) -> Rollouts:
        rollouts = super().generate(*args, **options)
        rollouts.finished[:] = False
        rollouts.reward_token_log_probs[:] = torch.nan
        return rollouts


class RewardTokenEngine(TransformersEngine):
    """An engine that draws the reward token as the first token of every response."""

    def generate(self, policy: Any, prompts: Sequence[Sequence[int]], *args: Any, **options: Any) -> Rollouts:
        rollouts = super().generate(policy, prompts, *args, **options)
        rollouts.response_ids[:, 0] = 3
        return rollouts


class Diary(TransformersEngine):
    """An engine that writes down what it is told, and how many prompts it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[str] = []

    def generate(self, policy: Any, prompts: Sequence[Sequence[int]], *args: Any, **options: Any) -> Rollouts:
        self.entries.append(f"generate {len(prompts)}")
        return super().generate(policy, prompts, *args, **options)

    def weights_changed(self) -> None:
        self.entries.append("changed")

    def sleep(self) -> None:
        self.entries.append("sleep")

    def close(self) -> None:
        self.entries.append("close")


class NaNLoss(PolicyLoss):
    """A policy loss that is not a number, in given calls only."""

    def __init__(self, calls: set[int] | None = None) -> None:
        self.calls, self.count = calls, 0

    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        self.count += 1
        bad = self.calls is None or self.count - 1 in self.calls
        losses = tokens.log_probs * tokens.advantages * (math.nan if bad else -1.0)
        return TokenLosses(losses, torch.zeros_like(tokens.mask))


def module(**options: Any) -> LaSeRModule:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "policy": PolicySettings(EMBEDDED, random_init=True, config_overrides={**TINY, "num_hidden_layers": 1}),
        "self_reward": LastTokenSelfReward("<|reward|>", beta=0.1, reference=-20.0),
        "verifier": HashVerifier(),
        "group_size": 4,
        "sampling": Sampling(max_response_tokens=24),
        "verification": VerificationSettings(workers=0),
        "evaluation": EvaluationSettings(samples=2),
        "optimizer": OptimizerSettings(learning_rate=1e-2, algorithm="sgd", max_grad_norm=None),
    }
    return LaSeRModule(**{**settings, **options})


def data(**options: Any) -> PromptDataModule:
    settings: dict[str, Any] = {
        "train": ArithmeticSource("train", size=64),
        "val": {"sums": ArithmeticSource("val", size=6)},
        "prompts_per_step": 8,
    }
    return PromptDataModule(**{**settings, **options})


def trainer(tmp_path: Path, steps: int = 1, **options: Any) -> lightning.Trainer:
    settings: dict[str, Any] = {
        "max_steps": steps,
        "accelerator": "cpu",
        "devices": 1,
        "logger": CSVLogger(tmp_path, name="", version="run"),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
        "default_root_dir": tmp_path,
    }
    return lightning.Trainer(**{**settings, **options})


def fit(tmp_path: Path, model: LaSeRModule, steps: int = 1, **options: Any) -> dict[str, float]:
    run = trainer(tmp_path, steps, **options)
    run.fit(model, datamodule=data())
    return {name: float(value) for name, value in run.callback_metrics.items()}


def weights(model: LaSeRModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


@pytest.fixture
def initial() -> Tensor:
    """The weights that `module()` starts from."""
    model = module()
    torch.manual_seed(0)
    model.configure_model()
    return weights(model)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> PolicySettings:
    """A tiny model on disk, for what needs a reference."""
    directory = tmp_path_factory.mktemp("pretrained")
    model = fresh()
    model.policy.lm.save_pretrained(directory)
    model.tokenizer.save_pretrained(directory)
    return PolicySettings(path=str(directory))


def fresh(**options: Any) -> LaSeRModule:
    model = module(**options)
    torch.manual_seed(0)
    model.configure_model()
    return model


def test_a_step_changes_the_weights_and_reports(tmp_path: Path, initial: Tensor) -> None:
    model = fresh()
    values = fit(tmp_path, model, steps=2)
    assert not torch.equal(weights(model), initial)
    assert values["train/phase"] == 2
    assert 0 < values["train/reward"] < 1
    assert 0 < values["train/truncation_rate"] < 1, "the test needs finished and truncated responses"
    # The engine decodes with a cache and left padding, the trainer without: the same log-probs up to rounding.
    assert values["train/mismatch/token_log_prob"] < 1e-5
    assert values["train/mismatch/reward_token_log_prob"] < 1e-5
    rollout = model.last_rollout
    assert rollout is not None
    wins, scores = [], rollout.grouped(rollout.self_rewards).tolist()
    for group, rewards in zip(scores, rollout.grouped(rollout.rewards).tolist(), strict=True):
        right, wrong = ([one for one, reward in zip(group, rewards, strict=True) if reward == hit] for hit in (1, 0))
        wins += [1.0 if one > other else 0.5 if one == other else 0.0 for one in right for other in wrong]
    assert values["train/self_reward/auroc_within"] == pytest.approx(sum(wins) / len(wins))
    assert 0 < values["train/self_reward/brier"] < 1
    assert model.reference is None, "a constant reference needs no reference model"


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "fixed_length"])
def test_the_micro_batch_budget_does_not_change_the_step(
    tmp_path: Path, pretrained: PolicySettings, aggregation: Any
) -> None:
    results = []
    for budget in (100_000, 200, 64):
        update = UpdateSettings(micro_batch_tokens=budget, aggregation=aggregation, kl_coef=0.1, entropy_coef=0.01)
        model = fresh(policy=pretrained, update=update)
        fit(tmp_path, model)
        results.append(weights(model))
    assert not torch.equal(results[0], results[2])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-6)


def test_packing_does_not_change_the_step(tmp_path: Path, pretrained: PolicySettings) -> None:
    results = []
    for packing in ("never", "always"):
        update = UpdateSettings(micro_batch_tokens=200, kl_coef=0.1)
        model = fresh(policy=replace(pretrained, packing=packing), update=update)  # type: ignore[arg-type]
        fit(tmp_path, model)
        results.append(weights(model))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-6)


def test_sharing_prompts_does_not_change_the_step(tmp_path: Path, pretrained: PolicySettings) -> None:
    # The reference's pass and the update's, in micro-batches of several prompts and of one.
    for budget in (10_000, 64):
        results = []
        for shared in ("never", "auto", "always"):
            update = UpdateSettings(micro_batch_tokens=budget, kl_coef=0.1)
            model = fresh(policy=replace(pretrained, shared_prompts=shared), update=update)  # type: ignore[arg-type]
            fit(tmp_path, model)
            assert (model.policy.sharing is None) == (shared == "never")
            results.append(weights(model))
        assert not torch.equal(results[2], results[0])  # rounding says that another way was taken
        for other in results[1:]:
            torch.testing.assert_close(other, results[0], rtol=0, atol=1e-6)


def test_global_step_counts_optimizer_steps(tmp_path: Path) -> None:
    # 2 mini-batches in each of 2 epochs: 4 optimizer steps per rollout.
    model = fresh(update=UpdateSettings(mini_batches=2, epochs=2))
    run = trainer(tmp_path, steps=8)
    run.fit(model, datamodule=data())
    assert run.global_step == 8
    assert run.fit_loop.total_batch_idx + 1 == 2


def test_the_ratio_of_reused_rollouts_is_the_true_one(tmp_path: Path) -> None:
    seen: list[float] = []

    class Spy(PolicyLoss):
        def __call__(self, tokens: PolicyTokens) -> TokenLosses:
            difference = tokens.log_probs - tokens.old_log_probs
            seen.append(float(difference.detach()[tokens.mask].abs().max()))
            return TokenLosses(-difference.exp() * tokens.advantages, torch.zeros_like(tokens.mask))

    fit(tmp_path, fresh(update=UpdateSettings(epochs=3), policy_loss=Spy()), steps=3)
    assert seen[0] == pytest.approx(0, abs=1e-6)
    assert min(seen[1:]) > 1e-4


@pytest.mark.parametrize(
    ("step", "loss_weight", "phases", "changes"),
    [(0, 0.5, Phases(reasoning_steps=5), False), (0, 0.5, Phases(), True), (0, 0.0, Phases(), False)],
)
def test_without_a_policy_signal_only_the_self_rewarding_loss_moves_weights(
    tmp_path: Path, initial: Tensor, step: int, loss_weight: float, phases: Phases, changes: bool
) -> None:
    head = LastTokenSelfReward("<|reward|>", reference=-20.0, loss_weight=loss_weight)
    model = fresh(
        verifier=ConstantVerifier(0.0), self_reward=head, phases=phases, advantage=AdvantageSettings(mixing=None)
    )
    if changes:
        fit(tmp_path, model)
        assert not torch.equal(weights(model), initial)
        return
    model.max_skipped_steps = 3
    with pytest.raises(UserError, match=r"3 optimizer steps in a row were skipped.*all rewards are equal"):
        fit(tmp_path, model)
    assert torch.equal(weights(model), initial)


def test_a_penalty_of_length_is_for_the_advantages_alone(tmp_path: Path) -> None:
    # All answers are right, so only their lengths tell the solutions of a group apart.
    model = fresh(verifier=ConstantVerifier(1.0), advantage=AdvantageSettings(shaping=[OverlongPenalty(1.0)]))
    targets, fixed = model.targets, []
    model.targets = lambda *args: fixed.append(targets(*args)) or fixed[-1]  # type: ignore[method-assign, func-returns-value]
    values = fit(tmp_path, model)
    assert values["train/reward"] == 1.0
    assert (fixed[-1].rewards == 1.0).all(), "the self-reward is trained towards the verifier's rewards"
    assert fixed[-1].advantages.any()
    lengths = model.last_rollout.rollouts.response_lengths.float()  # type: ignore[union-attr]
    for row, advantages in zip(lengths.view(-1, 4), fixed[-1].advantages.view(-1, 4), strict=True):
        # The penalty of a buffer as long as the limit is linear in the length.
        expected = (row.mean() - row) / (row.std() + 1e-6)
        torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-3)


def test_one_class_only(tmp_path: Path) -> None:
    values = fit(tmp_path, fresh(verifier=ConstantVerifier(1.0), advantage=AdvantageSettings(mixing=None)))
    assert values["train/self_reward/f1"] == 0.0
    assert math.isnan(values["train/self_reward/auroc"])
    assert math.isnan(values["train/self_reward/auroc_within"])
    assert math.isfinite(values["train/self_reward_loss"])


def test_all_responses_truncated(tmp_path: Path) -> None:
    model = fresh(engine=NeverEndingEngine())
    with pytest.warns(UserWarning, match="All responses of step 1 were cut"):
        values = fit(tmp_path, model)
    assert values["train/self_reward_loss"] == 0.0
    assert values["train/self_reward/mean"] == 0.0
    assert torch.isfinite(weights(model)).all()


def test_a_response_with_the_reward_token_is_reported(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"In step 1 100.00% of the responses contain the reward token"):
        values = fit(tmp_path, fresh(engine=RewardTokenEngine()))
    assert values["train/reward_token_emitted"] == 1.0


def test_a_loss_that_is_not_finite_skips_the_step(tmp_path: Path) -> None:
    healthy, spoiled = fresh(policy_loss=NaNLoss(set())), fresh(policy_loss=NaNLoss({1}))
    fit(tmp_path, healthy, steps=1)
    with pytest.warns(UserWarning, match="Optimizer step 1 is skipped and no weight changed: the loss is nan"):
        run = trainer(tmp_path, steps=1, max_steps=-1, limit_train_batches=2, max_epochs=1)
        run.fit(spoiled, datamodule=data())
    assert run.global_step == 1
    assert torch.equal(weights(healthy), weights(spoiled))


def test_many_bad_steps_stop_the_run_with_a_checkpoint(tmp_path: Path, initial: Tensor) -> None:
    model = fresh(policy_loss=NaNLoss(), max_skipped_steps=2)
    with pytest.raises(UserError, match="Stopped: 2 optimizer steps in a row were skipped"):
        fit(tmp_path, model, steps=5)
    assert torch.equal(weights(model), initial)
    saved = torch.load(tmp_path / "run/stopped.ckpt", weights_only=True)["state_dict"]
    key = "policy.lm.model.embed_tokens.weight"
    assert torch.equal(saved[key], model.state_dict()[key])


@pytest.mark.filterwarnings("ignore:Optimizer step 1 is skipped")
def test_skipped_steps_in_a_row_are_counted_on_in_a_resumed_run(tmp_path: Path) -> None:
    # Round 0 has a gradient, round 1 has none and is saved, and round 2 is the second without one.
    run = trainer(tmp_path, steps=5, max_steps=-1, limit_train_batches=2, max_epochs=1)
    run.fit(fresh(policy_loss=NaNLoss({1}), max_skipped_steps=2), datamodule=data())
    run.save_checkpoint(tmp_path / "skipped.ckpt")
    loss = NaNLoss()
    resumed = fresh(policy_loss=loss, max_skipped_steps=2)
    with pytest.raises(UserError, match="Stopped: 2 optimizer steps in a row were skipped"):
        trainer(tmp_path, steps=5).fit(resumed, datamodule=data(), ckpt_path=str(tmp_path / "skipped.ckpt"))
    assert loss.count == 1
    # A module of its own is another run.
    assert resumed._skipped_in_a_row == 2
    resumed.forget_position()
    assert resumed._skipped_in_a_row == 0


def test_a_verifier_that_raises_or_hangs_costs_one_solution_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Worker processes import the verifier, so it lives in a module of its own.
    (tmp_path / "failing_verifier.py").write_text(FAILING_VERIFIER)
    monkeypatch.syspath_prepend(tmp_path)
    verifier = importlib.import_module("failing_verifier").FailingVerifier()
    model = fresh(verifier=verifier, verification=VerificationSettings(workers=2, timeout_seconds=1.0))
    with pytest.warns(UserWarning, match="The verifier failed"):
        values = fit(tmp_path, model)
    assert 0 < values["train/verifier_failures"] < 32
    assert model.last_rollout is not None
    errors = {v.error for v in model.last_rollout.verifications if v.error}
    assert "timed out after 1 s" in errors
    assert any(error.startswith("KeyError") for error in errors)


def test_an_exact_reference_and_a_kl_term_run_the_frozen_reference(tmp_path: Path, pretrained: PolicySettings) -> None:
    head = LastTokenSelfReward("<|reward|>", reference="exact", loss_weight=0.5)
    model = fresh(policy=pretrained, self_reward=head, update=UpdateSettings(kl_coef=0.1))
    assert model.reference is not None
    before = torch.cat([p.flatten() for p in model.reference.parameters()]).clone()
    values = fit(tmp_path, model)
    # Policy and reference are the same in the first step: r_s is 0 and so is every KL estimate.
    assert values["train/self_reward/mean"] == pytest.approx(0, abs=1e-5)
    assert values["train/kl"] == pytest.approx(0, abs=1e-6)
    assert torch.equal(before, torch.cat([p.flatten() for p in model.reference.parameters()]))
    assert not model.reference.training


@pytest.mark.parametrize(
    ("reference", "kl_coef", "epochs", "own", "of_reference"),
    [
        (-20.0, 0.0, 1, 0, 0),  # nothing but the update itself
        ("exact", 0.0, 1, 0, 1),
        (-20.0, 0.1, 1, 0, 1),
        ("exact", 0.1, 1, 0, 1),  # scores and log-probs in one pass
        (-20.0, 0.0, 2, 1, 0),  # old log-probs, once per round
        ("exact", 0.1, 2, 1, 1),
    ],
)
def test_no_forward_pass_that_the_mathematics_does_not_need(
    tmp_path: Path, pretrained: PolicySettings, reference: Any, kl_coef: float, epochs: int, own: int, of_reference: int
) -> None:
    head = LastTokenSelfReward("<|reward|>", reference=reference, loss_weight=0.5)
    model = fresh(policy=pretrained, self_reward=head, update=UpdateSettings(kl_coef=kl_coef, epochs=epochs))
    passes = {"trained": 0, "own": 0, "of_reference": 0}

    def count(name: str) -> None:
        passes[name] += 1

    model.check_policy = list  # the self-test before the first step has passes of its own
    # Rollouts call the decoder directly.
    model.policy.register_forward_pre_hook(lambda *_: count("trained" if torch.is_grad_enabled() else "own"))
    if model.reference is not None:
        model.reference.register_forward_pre_hook(lambda *_: count("of_reference"))
    fit(tmp_path, model, steps=epochs)
    assert passes == {"trained": epochs, "own": own, "of_reference": of_reference}


class MistakenEngine(TransformersEngine):
    """An engine that reports log-probs which are too low by ln 1.5, and by ln 4 for the first tokens."""

    def generate(self, *args: Any, **options: Any) -> Rollouts:
        rollouts = super().generate(*args, **options)
        rollouts.sampling_log_probs -= math.log(1.5)
        rollouts.sampling_log_probs[:, 0] -= math.log(4 / 1.5)
        return rollouts


def test_importance_weights_are_applied_and_logged(tmp_path: Path, pretrained: PolicySettings) -> None:
    losses = {}
    for importance in ("none", "token"):
        head = LastTokenSelfReward("<|reward|>", reference=-20.0, loss_weight=0.5)
        correction = None if importance == "none" else TruncatedImportance(cap=3.0)
        update = UpdateSettings(importance=correction, micro_batch_tokens=200)
        model = fresh(policy=pretrained, self_reward=head, update=update, engine=MistakenEngine())
        values = fit(tmp_path, model)
        losses[importance] = values["train/policy_loss"]
    assert losses["none"] != losses["token"]
    # Of the tokens that were trained on, the first ones weigh min(4, 3) and the others 1.5.
    assert values["train/importance_weight"] == pytest.approx(1.5 + 1.5 * values["train/importance_capped"], rel=1e-5)
    assert 0.03 < values["train/importance_capped"] < 0.5


def test_a_reference_needs_pretrained_weights() -> None:
    with pytest.raises(UserError, match=r"policy\.random_init has no reference model"):
        fresh(update=UpdateSettings(kl_coef=0.1))


def test_the_reference_is_not_saved_and_is_there_after_a_resume(tmp_path: Path, pretrained: PolicySettings) -> None:
    update = UpdateSettings(kl_coef=0.1)
    run = trainer(tmp_path)
    run.fit(fresh(policy=pretrained, update=update), datamodule=data())
    run.save_checkpoint(tmp_path / "one.ckpt")
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
    assert not any(name.startswith("reference.") for name in saved)
    whole, resumed = fresh(policy=pretrained, update=update), fresh(policy=pretrained, update=update)
    fit(tmp_path, whole, steps=2)
    trainer(tmp_path, 2).fit(resumed, datamodule=data(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert torch.equal(weights(whole), weights(resumed))


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(fresh(), datamodule=data())
    run.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    del checkpoint["state_dict"]["self_reward.reference_constant"]
    torch.save(checkpoint, tmp_path / "one.ckpt")
    with pytest.raises(UserError, match=r"lacks 1 of the model's tensors, such as self_reward\.reference_constant"):
        trainer(tmp_path, 2).fit(fresh(), datamodule=data(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)


def test_the_engine_hears_of_each_change_of_the_weights(tmp_path: Path) -> None:
    engine = Diary()
    model = fresh(engine=engine, policy_loss=NaNLoss(calls={1}))
    with pytest.warns(UserWarning, match="skipped"):
        fit(tmp_path, model, steps=2)
    step = ["generate 8", "sleep"]
    # The second step is skipped, and does not count as one of the two.
    assert engine.entries == ["changed", *step, "changed", *step, *step, "changed", "close"]


def test_an_engine_that_replays_cannot_train(tmp_path: Path) -> None:
    engine = Diary()
    engine.replays = True
    with pytest.raises(UserError, match=r"model\.engine is Diary, which hands out solutions that were kept"):
        fit(tmp_path, fresh(engine=engine), steps=1)


@pytest.mark.parametrize("collective", [False, True])
def test_a_rank_without_problems_calls_an_engine_that_needs_all_ranks(collective: bool, tmp_path: Path) -> None:
    engine = Diary()
    engine.collective = collective
    model = fresh(engine=engine)
    fit(tmp_path, model)
    engine.entries.clear()
    assert model.predict_step([], 0) is None
    model.validation_step([], 0)
    assert engine.entries == ["generate 0", "generate 0"] * collective


def test_evaluation_at_start_and_end(tmp_path: Path) -> None:
    run = trainer(tmp_path, steps=2, limit_val_batches=1.0, val_check_interval=100, check_val_every_n_epoch=None)
    run.fit(fresh(), datamodule=data(train=ArithmeticSource("train", size=800)))
    lines = (tmp_path / "run/metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("val/sums/pass@1")
    steps = lines[0].split(",").index("step")
    evaluated = [line.split(",")[steps] for line in lines[1:] if line.split(",")[column]]
    assert len(evaluated) == 2
    assert {"val/sums/maj@2", "val/sums/weighted_maj@2", "val/sums/self_verification/f1"} <= set(lines[0].split(","))


def test_evaluation_does_not_disturb_training(tmp_path: Path) -> None:
    quiet, busy = fresh(), fresh()
    fit(tmp_path, quiet, steps=3)
    fit(tmp_path, busy, steps=3, limit_val_batches=1.0, val_check_interval=1)
    assert torch.equal(weights(quiet), weights(busy))


def test_phases_follow_the_optimizer_steps(tmp_path: Path) -> None:
    fit(tmp_path, fresh(phases=Phases(1, 1)), steps=3, log_every_n_steps=1)
    lines = (tmp_path / "run/metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/phase")
    assert [line.split(",")[column] for line in lines[1:]] == ["0.0", "1.0", "2.0"]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(fresh(), datamodule=data())
    run.save_checkpoint(tmp_path / "one.ckpt")
    other = {**TINY, "hidden_size": 16, "num_hidden_layers": 1}
    model = module(policy=PolicySettings(EMBEDDED, random_init=True, config_overrides=other))
    with pytest.raises(UserError, match=r"checkpoint is of another model: its hidden size is 32.*is 16"):
        trainer(tmp_path, 2).fit(model, datamodule=data(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)


def test_a_constant_is_saved_and_not_calibrated_again(tmp_path: Path) -> None:
    model = fresh(self_reward=LastTokenSelfReward("<|reward|>", beta=0.5))
    run = trainer(tmp_path, callbacks=[ReferenceConstantCalibration(prompts=4, max_emission_rate=1)])
    run.fit(model, datamodule=data())
    run.save_checkpoint(tmp_path / "one.ckpt")
    resumed = fresh(self_reward=LastTokenSelfReward("<|reward|>", beta=0.5))
    calibration = ReferenceConstantCalibration(prompts=8, max_emission_rate=1)
    trainer(tmp_path, 2, callbacks=[calibration]).fit(
        resumed, datamodule=data(), ckpt_path=tmp_path / "one.ckpt", weights_only=True
    )
    assert calibration.result is None
    assert torch.equal(resumed.self_reward.reference_constant, model.self_reward.reference_constant)


def test_what_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mini_batches = 3 does not divide the 8 prompts"):
        fit(tmp_path, fresh(update=UpdateSettings(mini_batches=3)))


def test_a_gold_answer_that_cannot_match_is_refused_with_its_row(tmp_path: Path) -> None:
    class Picky(HashVerifier):
        def check_gold(self, gold: str) -> None:
            if int(gold) > 100:
                raise ValueError("too large")

    with pytest.raises(UserError, match=r"gold answers of the set 'train' can never be matched: row \d+ \(too large\)"):
        fit(tmp_path, fresh(verifier=Picky()))


def test_a_sequence_over_the_token_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="micro_batch_tokens = 16"):
        fit(tmp_path, fresh(update=UpdateSettings(micro_batch_tokens=16)))


def test_settings_that_cannot_train_are_refused() -> None:
    with pytest.raises(UserError, match="group_size is 1"):
        module(group_size=1)
    with pytest.raises(UserError, match="temperature is 0"):
        module(sampling=Sampling(temperature=0.0))
