"""Judging updates in a run: what they do to the weights, what counts, and what is resumed."""

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from transformers import PreTrainedModel
from whole_runs import quiet_trainer

from laser_lightning import (
    GroupBalancedWeights,
    JudgingSettings,
    KLHold,
    LaSeRModule,
    LastTokenSelfReward,
    PromptDataModule,
    RISEModule,
    SampledCrossEntropy,
)
from laser_lightning.data import ArithmeticSource
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.judging import Judging
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.judging.replay import Replay
from laser_lightning.objective.phases import Phases
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.policy.model import Policy, PolicySettings
from laser_lightning.records.batching import Rollouts, pad_rows
from laser_lightning.rollout import RolloutEngine, Sampling
from laser_lightning.verifiers import Verifier
from laser_lightning.verifiers.settings import VerificationSettings

EOS, REWARD_TOKEN, LIMIT, BETA, CONSTANT, TEMPERATURE = 1, 3, 9, 0.1, -20.0, 0.8
USUAL = JudgingSettings()


class EvenVerifier(Verifier):
    """Finds responses with an even number of characters correct, in every second problem."""

    def extract(self, response: str) -> str | None:
        return response or None

    def equivalent(self, answer: str, gold: str) -> bool:
        return answer == gold

    def reward(self, response: str, gold: str) -> float:
        return float(len(response) % 2 == 0 or len(gold) % 2 == 0)


class FixedEngine(RolloutEngine):
    """Deals each prompt responses of its own, of which some are truncated."""

    def generate(self, policy: Policy, prompts: Sequence[Sequence[int]], group_size: int, *others: Any) -> Rollouts:
        rows: list[list[int]] = []
        for prompt in prompts:
            lot = random.Random(str(prompt))
            for _ in range(group_size):
                length = lot.randint(1, LIMIT + 2)
                tokens = [lot.randint(20, 90) for _ in range(min(length, LIMIT))]
                rows.append(tokens if length > LIMIT else [*tokens[:-1], EOS])
        prompt_ids, prompt_lengths = pad_rows(prompts, 0)
        response_ids, response_lengths = pad_rows(rows, 0)
        finished = torch.tensor([row[-1] == EOS for row in rows])
        scores = torch.linspace(-21, -11, len(rows)).where(finished, torch.nan)[:, None]
        sampled = torch.full(response_ids.shape, -4.6)
        return Rollouts(prompt_ids, prompt_lengths, response_ids, response_lengths, finished, sampled, scores)


@pytest.fixture
def make(policy_dir: Path) -> Callable[..., LaSeRModule]:
    """``make(judging=..., **options)`` makes a module that is trained on fixed responses."""

    def make_module(
        judging: JudgingSettings | None = USUAL, micro_batch_tokens: int = 10_000, **options: Any
    ) -> LaSeRModule:
        settings: dict[str, Any] = {
            "policy": PolicySettings(str(policy_dir)),
            "self_reward": LastTokenSelfReward("<|reward|>", beta=BETA, loss_weight=0.5, reference=CONSTANT),
            "verifier": EvenVerifier(),
            "group_size": 6,
            "engine": FixedEngine(),
            "sampling": Sampling(temperature=TEMPERATURE, max_response_tokens=LIMIT),
            "update": UpdateSettings(micro_batch_tokens, judging=judging, max_mismatch=None),
            "verification": VerificationSettings(workers=0),
            "evaluation": EvaluationSettings(at_start=False, at_end=False),
            # A large eps: AdamW must not amplify rounding.
            "optimizer": OptimizerSettings(1e-3, eps=0.1, warmup_steps=3),
            "seed": 0,
        }
        return LaSeRModule(**{**settings, **options})

    return make_module


class Logged(Callback):
    """What each step logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, *others: Any) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        clock = ("_seconds", "_per_second", "tokens/s")
        self.rows.append({name: value for name, value in values.items() if not name.endswith(clock)})


def fit(
    directory: Path, module: LaSeRModule, steps: int, checkpoint: Path | None = None
) -> tuple[lightning.Trainer, list[dict[str, float]]]:
    logged = Logged()
    trainer = quiet_trainer(directory, steps, callbacks=[logged])
    data = PromptDataModule(train=ArithmeticSource(size=32, seed=1), prompts_per_step=4, seed=0)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=False)
    return trainer, logged.rows


def weights(lm: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in lm.parameters()])


# ----------------------------------------------------------- what an update does


class Spy(Judging):
    """Keeps what was drawn, the weights and the optimizer from before the updates, and the weights from behind them."""

    def replay(self, *args: Any) -> dict[str, float]:
        module = self._module
        self.drawn: list[Replay] = []
        before = deepcopy(module.policy.lm)
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in before.parameters() if p.ndim >= 2], "weight_decay": 0.01},
                {"params": [p for p in before.parameters() if p.ndim < 2], "weight_decay": 0.0},
            ],
            eps=0.1,
        )
        optimizer.load_state_dict(deepcopy(module.optimizers().state_dict()))  # type: ignore[union-attr]
        found = super().replay(*args)
        self.last = (before, optimizer, list(self.drawn), weights(module.policy.lm))
        return found

    def _draw(self, number: int) -> Replay | None:
        replay = super()._draw(number)
        assert replay is not None
        self.drawn.append(replay)
        return replay


def slow_loss(lm: PreTrainedModel, old: PreTrainedModel, replay: Replay, hold: Any, plain: Any) -> Tensor:
    """The loss of one update, solution by solution."""
    rollout, rollouts = replay.rollout, replay.rollout.rollouts
    groups = []
    for group, prompt in enumerate(rollouts.prompt_ids.tolist()):
        prompt = prompt[: int(rollouts.prompt_lengths[group])]
        rows = range(group * 6, group * 6 + 6)
        kinds = {
            row: "cut" if not rollouts.finished[row] else "right" if rollout.rewards[row] > 0.5 else "wrong"
            for row in rows
        }
        groups.append((prompt, kinds))

    def others(kinds: dict[int, str], row: int) -> set[str]:
        return {kind for one, kind in kinds.items() if one != row}

    unbiased = isinstance(hold, SampledCrossEntropy)
    tokens = 0
    for _, kinds in groups:
        for row in kinds:
            if not unbiased or others(kinds, row) >= {"right", "wrong"}:
                tokens += int(rollouts.response_lengths[row])
    loss = torch.zeros(())
    for prompt, kinds in groups:
        seen = [row for row in kinds if replay.stands_for[row] > 0]
        for row in seen:
            response = rollouts.response_ids[row, : int(rollouts.response_lengths[row])].tolist()
            said = plain(lm, prompt, response, TEMPERATURE)
            if kinds[row] != "cut":
                error = BETA * (said.after_last[REWARD_TOKEN] - CONSTANT) - float(kinds[row] == "right")
                of_kind = sum(kinds[one] == kinds[row] for one in seen)
                loss = loss + error**2 / (2 * len(groups) * of_kind)
            share = float(sum(kind == kinds[row] for kind in kinds.values())) / sum(
                kinds[one] == kinds[row] for one in seen
            )
            if isinstance(hold, SampledCrossEntropy) and others(kinds, row) >= {"right", "wrong"}:
                loss = loss - hold.weight * share * said.log_probs.sum() / tokens
            if isinstance(hold, KLHold):
                with torch.no_grad():
                    difference = plain(old, prompt, response, TEMPERATURE).log_probs
                difference = difference - said.log_probs
                loss = loss + hold.weight * share * (difference.exp() - 1 - difference).sum() / tokens
    return loss


@pytest.mark.parametrize("hold", [SampledCrossEntropy(0.3), KLHold(2.0), None], ids=["entropy", "divergence", "none"])
def test_updates_are_those_of_a_slow_loop(
    tmp_path: Path, make: Callable[..., LaSeRModule], plain_pass: Callable[..., Any], hold: Any
) -> None:
    settings = JudgingSettings(updates=3, groups_per_update=3, hold=hold, learning_rate=4e-2)
    module = make(settings, micro_batch_tokens=40)
    module.judging = Spy(settings, module)
    _, rows = fit(tmp_path, module, 3)
    lm, optimizer, drawn, ours = module.judging.last
    old = deepcopy(lm)
    rate = optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(1e-3)  # the last step of the warm-up is over, and the schedule moved on
    losses, norms = [], []
    for replay in drawn:
        optimizer.zero_grad()
        loss = slow_loss(lm, old, replay, hold, plain_pass)
        loss.backward()  # type: ignore[no-untyped-call]
        norms.append(float(torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)))
        for group in optimizer.param_groups:
            group["lr"] = 40 * rate
        optimizer.step()
        losses.append(loss.item())
    assert (weights(lm) - weights(old)).abs().max() > 1e-3
    torch.testing.assert_close(weights(lm), ours, rtol=0, atol=2e-6)
    assert rows[-1]["train/judging/updates"] == 3
    assert rows[-1]["train/judging/loss"] == pytest.approx(sum(losses) / 3, rel=1e-4)
    assert rows[-1]["train/judging/gradient_norm"] == pytest.approx(sum(norms) / 3, rel=1e-4)


def test_micro_batches_change_nothing(tmp_path: Path, make: Callable[..., LaSeRModule]) -> None:
    whole, cut = make(), make(micro_batch_tokens=30)
    for module in (whole, cut):
        fit(tmp_path, module, 2)
    torch.testing.assert_close(weights(cut.policy.lm), weights(whole.policy.lm), rtol=0, atol=1e-6)


def test_the_judge_learns(tmp_path: Path, make: Callable[..., LaSeRModule]) -> None:
    # The same few responses over and over: which of them are correct can be learned by heart.
    judging = JudgingSettings(updates=12, hold=None, learning_rate=0.1)
    _, rows = fit(tmp_path, make(judging, optimizer=OptimizerSettings(1e-3, eps=0.1)), 10)
    first, last = rows[0], rows[-1]
    assert last["train/judging/self_reward_loss"] < 0.5 * first["train/judging/self_reward_loss"]
    assert last["train/judging/auroc_within"] > first["train/judging/auroc_within"]


# ------------------------------------------------------------------- what counts


def test_rounds_are_counted_and_updates_are_not(tmp_path: Path, make: Callable[..., LaSeRModule]) -> None:
    runs = [fit(tmp_path, make(judging), 4) for judging in (JudgingSettings(updates=5), None)]
    (ours, with_judging), (theirs, without) = runs
    assert ours.global_step == theirs.global_step == 4
    rates = [[row["train/learning_rate"] for row in rows] for rows in (with_judging, without)]
    assert rates[0] == rates[1] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    schedules = [trainer.lr_scheduler_configs[0].scheduler for trainer in (ours, theirs)]
    assert schedules[0].state_dict() == schedules[1].state_dict()
    assert not any("judging" in name for row in without for name in row)


def test_the_own_rate_follows_the_schedule_and_is_put_back(tmp_path: Path, make: Callable[..., LaSeRModule]) -> None:
    seen: list[float] = []

    class Watched(Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            seen.append(optimizer.param_groups[0]["lr"])

    module = make(JudgingSettings(updates=1, learning_rate=4e-3))
    logged = Logged()
    trainer = lightning.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        callbacks=[Watched(), logged],
    )
    trainer.fit(module, PromptDataModule(train=ArithmeticSource(size=32, seed=1), prompts_per_step=4, seed=0))
    # A warm-up of three steps: 1/4 and 1/2 of either rate. The judging update comes behind the step of the schedule.
    assert seen == pytest.approx([2.5e-4, 4e-3 / 2, 5e-4, 4e-3 * 3 / 4])


def test_there_are_none_before_the_self_reward_is_trained(tmp_path: Path, make: Callable[..., LaSeRModule]) -> None:
    module = make(JudgingSettings(groups_per_update=100), phases=Phases(reasoning_steps=2))
    module.judging = Spy(module.judging.settings, module)
    _, rows = fit(tmp_path, module, 3)
    assert [row.get("train/judging/updates") for row in rows] == [None, None, 2]
    # The solutions of the warm-up are replayed.
    rounds = {held.number for held in module.judging.buffer._held}
    assert rounds == {1, 2, 3}
    assert len(module.judging.last[2][0].rollout.problems) == sum(
        len(held.problems) for held in module.judging.buffer._held
    )


def test_a_round_without_a_mixed_group_has_no_update(tmp_path: Path, make: Callable[..., LaSeRModule]) -> None:
    class Unanimous(EvenVerifier):
        def reward(self, response: str, gold: str) -> float:
            return 1.0

    _, rows = fit(tmp_path, make(verifier=Unanimous()), 1)
    assert {name: value for name, value in rows[0].items() if "judging" in name} == {"train/judging/updates": 0}


def test_updates_that_are_not_finite_are_skipped_and_stop_the_run(
    tmp_path: Path, make: Callable[..., LaSeRModule]
) -> None:
    class Broken(SampledCrossEntropy):
        def __call__(self, *args: Any) -> Tensor:
            return super().__call__(*args) * torch.nan

    module = make(JudgingSettings(updates=3, hold=Broken()), max_skipped_steps=3)
    with pytest.raises(UserError, match=r"3 optimizer steps in a row were skipped \(max_skipped_steps\)"):
        fit(tmp_path, module, 2)
    assert bool(weights(module.policy.lm).isfinite().all())


# ------------------------------------------------------------------------ resume


def test_a_resumed_run_is_the_run_bit_for_bit(tmp_path: Path, make: Callable[..., LaSeRModule]) -> None:
    judging = JudgingSettings(buffer_rounds=3, groups_per_update=3)
    whole, first, rest = (make(judging) for _ in range(3))
    _, expected = fit(tmp_path, whole, 5)
    fit(tmp_path, first, 2)[0].save_checkpoint(tmp_path / "two.ckpt")
    _, rows = fit(tmp_path, rest, 5, tmp_path / "two.ckpt")
    assert torch.equal(weights(rest.policy.lm), weights(whole.policy.lm))
    assert rows == expected[2:]
    forgetful = make(judging)
    forgetful.judging.load = lambda checkpoint: None  # type: ignore[method-assign]
    fit(tmp_path, forgetful, 5, tmp_path / "two.ckpt")
    assert not torch.equal(weights(forgetful.policy.lm), weights(whole.policy.lm))


def test_a_checkpoint_of_plain_values_without_a_step_in_between(
    tmp_path: Path, make: Callable[..., LaSeRModule]
) -> None:
    fit(tmp_path, make(), 2)[0].save_checkpoint(tmp_path / "two.ckpt")
    resumed, _ = fit(tmp_path, make(), 2, tmp_path / "two.ckpt")
    resumed.save_checkpoint(tmp_path / "again.ckpt")
    one, other = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("two", "again"))
    assert one["laser_judging"][0]["round"] == 2
    assert str(one["laser_judging"]) == str(other["laser_judging"])


def test_a_module_of_a_checkpoint_begins_a_run_of_its_own(tmp_path: Path, make: Callable[..., LaSeRModule]) -> None:
    fit(tmp_path, make(), 2)[0].save_checkpoint(tmp_path / "two.ckpt")
    module = LaSeRModule.load_from_checkpoint(tmp_path / "two.ckpt", engine=FixedEngine(), verifier=EvenVerifier())
    assert module.judging.settings.updates == 2
    fit(tmp_path, module, 1)
    assert module.judging.buffer.round == 1


def test_a_checkpoint_without_judging_is_resumed_with_it(tmp_path: Path, make: Callable[..., LaSeRModule]) -> None:
    fit(tmp_path, make(None), 1)[0].save_checkpoint(tmp_path / "one.ckpt")
    _, rows = fit(tmp_path, make(), 2, tmp_path / "one.ckpt")
    assert rows[0]["train/judging/updates"] == 2


# ------------------------------------------------------------------------ refused


def test_what_makes_no_sense_is_refused(policy_dir: Path, make: Callable[..., LaSeRModule]) -> None:
    untrained = LastTokenSelfReward("<|reward|>", loss_weight=0.0, reference=CONSTANT)
    with pytest.raises(UserError, match=r"update\.judging trains the self-reward, and self_reward\.loss_weight is 0"):
        make(self_reward=untrained)
    with pytest.raises(UserError, match=r"update\.judging trains the self-reward, and self_reward\.loss_weight is 0"):
        RISEModule(
            policy=PolicySettings(str(policy_dir)),
            self_reward=untrained,
            verifier=EvenVerifier(),
            update=UpdateSettings(judging=JudgingSettings()),
        )
    with pytest.raises(
        UserError, match=r"with group_size = 2 that is all of them: set update\.judging\.hold\.unbiased"
    ):
        make(group_size=2)
    make(JudgingSettings(hold=SampledCrossEntropy(unbiased=False), weights=GroupBalancedWeights()), group_size=2)
