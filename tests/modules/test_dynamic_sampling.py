"""Steps that sample until they are full of groups with a signal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from whole_runs import OddVerifier, saving_trainer, tiny_module

from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.modules.laser import LaSeRModule, SampledStep
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout.sampler import Sampler


class UnanimousVerifier(OddVerifier):
    """Finds every solution wrong."""

    def reward(self, response: str, gold: str) -> float:
        return 0.0


class WatchedSampler(Sampler):
    """Notes the problems of every round."""

    played: list[list[int]]

    def rollout(self, problems: Sequence[Problem], *args: Any) -> Any:
        self.played.append([problem.index for problem in problems])
        return super().rollout(problems, *args)


class Watched(LaSeRModule):
    """Notes the problems of every round, and what was trained on."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.trained: list[tuple[list[int], Rollouts, Tensor]] = []

    def make_sampler(self) -> Sampler:
        sampler = WatchedSampler(**vars(super().make_sampler()))
        sampler.played = self.played = []
        return sampler

    def sample_groups(self, problems: list[Problem]) -> SampledStep:
        step = super().sample_groups(problems)
        chosen = step.trained
        self.trained.append(([problem.index for problem in chosen.problems], chosen.rollouts, chosen.has_signal))
        return step


def watched(kind: type[Watched] = Watched, **options: Any) -> Watched:
    return tiny_module(kind, **{"sampling_rounds": 10, **options})


def fit(tmp_path: Path, model: LaSeRModule, steps: int, **options: Any) -> dict[str, float]:
    trainer = saving_trainer(tmp_path, steps, limit_val_batches=0)
    # 24 problems are 3 batches of 8: several steps of a few rounds each go through more than one epoch.
    data = PromptDataModule(train=ArithmeticSource("train", size=24), prompts_per_step=8)
    trainer.fit(model, datamodule=data, **options)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_a_step_is_filled_with_groups_that_have_a_signal(tmp_path: Path) -> None:
    model = watched()
    values = fit(tmp_path, model, steps=3)
    assert len(model.trained) == 3
    assert len(model.played) > 3
    for problems, rollouts, has_signal in model.trained:
        assert len(problems) == 8
        assert len(rollouts) == 32
        assert has_signal.all()
    # The rounds go on in the loader's order: each 3 batches are all of the problems once.
    for start in range(0, len(model.played) - 2, 3):
        assert len({index for batch in model.played[start : start + 3] for index in batch}) == 24
    # Metrics and callbacks see all that was sampled, of which hardly more than half has a signal.
    assert 0.1 < values["train/groups_with_signal"] < 0.8
    assert model.last_rollout is not None
    assert len(model.last_rollout.problems) % 8 == 0
    assert len(model.last_rollout.problems) > 8
    assert values["train/reward"] == pytest.approx(float(model.last_rollout.rewards.mean()))


def test_one_round_takes_the_groups_as_they_come(tmp_path: Path) -> None:
    model = watched(sampling_rounds=1)
    fit(tmp_path, model, steps=1)
    assert [model.trained[0][0]] == model.played
    assert not model.trained[0][2].all()


def test_the_rounds_of_a_step_are_bounded(tmp_path: Path) -> None:
    model = watched(verifier=UnanimousVerifier(), sampling_rounds=3, max_skipped_steps=1)
    with pytest.raises(UserError, match="in a row"), pytest.warns(UserWarning, match="no solution has a signal"):
        fit(tmp_path, model, steps=1)
    # The places of groups with a signal are filled with the first of the others.
    assert len(model.played) == 3
    assert model.trained[0][0] == model.played[0]


def test_a_resumed_run_goes_on_with_the_next_problems(tmp_path: Path) -> None:
    whole, resumed = watched(), watched()
    fit(tmp_path / "whole", whole, steps=4)
    fit(tmp_path / "resumed", resumed, steps=4, ckpt_path=tmp_path / "whole" / "step=2.ckpt", weights_only=True)
    assert resumed.played == whole.played[-len(resumed.played) :]
    assert 2 < len(resumed.played) < len(whole.played)
    for ours, theirs in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_no_round_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="sampling_rounds is 0"):
        watched(sampling_rounds=0)
