"""A curriculum is told what every step made of its problems, and chooses with it, in resumed runs too."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from whole_runs import saving_trainer, tiny_module

from laser_lightning.data import AccuracyBounds, ArithmeticSource, Curriculum, Draw, PromptDataModule, StepOutcome
from laser_lightning.data.loader import PromptLoader
from laser_lightning.data.problem import Problem
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.modules.laser import LaSeRModule, SampledStep
from laser_lightning.modules.teaching import gather_outcome, keeps
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.verifiers import Verification

INDICES = [30, 10, 0, 20]  # of the problems, in the order of the source's list
KINDS = ["add", "mul", None, "add"]
REWARDS = [[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
SELF_REWARDS = [[0.9, 0.1], [math.nan, 0.0], [0.5, -0.25], [0.125, 1.5]]


def a_problem(place: int) -> Problem:
    return Problem("train", INDICES[place], "p", "p", [1], "1", kind=KINDS[place])


class Chosen(Curriculum):
    """Deals the problems in a given order."""

    def __init__(self, order: list[int]) -> None:
        self.order = order

    def choose(self, draw: Draw) -> list[int]:
        return self.order


def a_loader(order: list[int]) -> PromptLoader:
    loader = PromptLoader([a_problem(place) for place in range(4)], 4, drop_last=True, curriculum=Chosen(order))
    next(iter(loader))
    return loader


def a_round(places: list[int], make_rollouts: Callable[..., Rollouts]) -> Rollout:
    def row(values: list[list[float]]) -> Tensor:
        return torch.tensor([value for place in places for value in values[place]])

    count = 2 * len(places)
    rollouts = make_rollouts(prompts=len(places), group_size=2)
    verifications = [Verification(0.0, None)] * count
    problems = [a_problem(place) for place in places]
    return Rollout(problems, rollouts, [""] * count, verifications, row(REWARDS), None, row(SELF_REWARDS))


def same(ours: Tensor, theirs: list[list[float]]) -> bool:
    return torch.equal(ours.nan_to_num(99.0), torch.tensor(theirs).nan_to_num(99.0))


def test_an_outcome_of_one_process(make_rollouts: Callable[..., Rollouts]) -> None:
    order = [2, 0, 3, 1]
    rollout = a_round(order, make_rollouts)
    # Two of the four were trained on, in another order: the third and the second, with advantages 1 -1 and 3 -3.
    chosen = torch.tensor([2, 1])
    step = SampledStep(rollout, rollout.select(chosen), chosen=chosen)
    found = gather_outcome(a_loader(order), step, torch.tensor([1.0, -1, 3, -3]), 7, Ranks())
    assert (found.step, found.problems, found.kinds) == (7, order, [None, "add", "add", "mul"])
    assert same(found.rewards, [[1, 1], [1, 0], [0, 1], [0, 0]])
    assert same(found.self_rewards, [[0.5, -0.25], [0.9, 0.1], [0.125, 1.5], [math.nan, 0]])
    assert same(found.advantages, [[math.nan] * 2, [3, -3], [1, -1], [math.nan] * 2])


def test_verifications_behind_the_solutions_are_left_out(make_rollouts: Callable[..., Rollouts]) -> None:
    rollout = a_round([0, 1, 2, 3], make_rollouts)
    advantages = torch.arange(12.0)  # 8 of solutions, and 4 of something else that the step trained on
    found = gather_outcome(a_loader([0, 1, 2, 3]), SampledStep(rollout, rollout), advantages, 1, Ranks())
    assert same(found.advantages, [[0, 1], [2, 3], [4, 5], [6, 7]])


def test_token_level_advantages_are_averaged_over_the_tokens(make_rollouts: Callable[..., Rollouts]) -> None:
    rollout = a_round([0, 1], make_rollouts)
    rollout.rollouts.response_lengths[:] = torch.tensor([1, 2, 3, 9])
    # 0 1 2 ... in each row; the mean of the first n is (n - 1) / 2.
    advantages = torch.arange(9.0).expand(4, 9)
    found = gather_outcome(a_loader([0, 1, 2, 3]), SampledStep(rollout, rollout), advantages, 1, Ranks())
    assert same(found.advantages, [[0, 0.5], [1, 4]])


class TwoRanks(Ranks):
    """The second of two processes, or, without a table, the first."""

    def __init__(self, first: Tensor | None = None) -> None:
        super().__init__()
        self.first = first
        self._index = 0

    @property
    def count(self) -> int:
        return 2

    @property
    def index(self) -> int:
        return self._index

    def stack(self, values: Tensor) -> Tensor:
        if self.first is None:
            self.first = values
        stacked = torch.stack((self.first, values))
        self._index = 1
        return stacked


def test_the_outcome_of_two_processes_is_in_the_order_of_the_choice(make_rollouts: Callable[..., Rollouts]) -> None:
    order = [2, 0, 3, 1]
    alone = a_round(order, make_rollouts)
    advantages = torch.arange(8.0)
    expected = gather_outcome(a_loader(order), SampledStep(alone, alone), advantages, 7, Ranks())
    ranks = TwoRanks()
    for rank in range(2):  # one has the first and the third problem, the other the second and the fourth
        rollout = a_round(order[rank::2], make_rollouts)
        own = advantages.view(4, 2)[rank::2].flatten()
        found = gather_outcome(a_loader(order), SampledStep(rollout, rollout), own, 7, ranks)
    assert found.problems == expected.problems == order
    assert found.kinds == expected.kinds
    for name in ("rewards", "self_rewards", "advantages"):
        assert torch.equal(getattr(found, name).nan_to_num(), getattr(expected, name).nan_to_num())


def test_processes_that_disagree_are_told_so(make_rollouts: Callable[..., Rollouts]) -> None:
    ranks, rollout = TwoRanks(), a_round([0, 1], make_rollouts)
    step = SampledStep(rollout, rollout)
    gather_outcome(a_loader([0, 1, 2, 3]), step, torch.zeros(4), 1, ranks)
    with pytest.raises(UserError, match=r"data.curriculum \(Chosen\) chose other problems on one process"):
        gather_outcome(a_loader([0, 2, 1, 3]), step, torch.zeros(4), 1, ranks)


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        # Accuracies 1/2, 0, 1 and 1/2: those with a signal, as without bounds.
        ((0.0, 1.0), [True, False, False, True]),
        ((0.5, 0.5), [True, False, False, True]),
        ((0.25, 0.4), [False] * 4),
    ],
)
def test_bounds_come_on_top_of_what_the_curriculum_keeps(
    bounds: tuple[float, float], kept: list[bool], make_rollouts: Callable[..., Rollouts]
) -> None:
    data: Any = SimpleNamespace(train_curriculum=Chosen([]), accuracy_bounds=AccuracyBounds(*bounds))
    assert keeps(data, a_round([0, 1, 2, 3], make_rollouts)).tolist() == kept


# ---------------------------------------------------------------------------------------------- in a run


class Rarest(Curriculum):
    """Chooses at random, and three times as often what was solved more often than not; remembers all it was told."""

    told: list[StepOutcome]
    chosen: list[list[int]]

    def begin(self, problems: Any) -> None:
        super().begin(problems)
        self.weights = torch.ones(len(problems))
        self.told, self.chosen = [], []

    def choose(self, draw: Draw) -> list[int]:
        self.chosen.append(draw.generator.choices(range(len(self.problems)), self.weights.tolist(), k=draw.count))
        return self.chosen[-1]

    def learn(self, outcome: StepOutcome) -> None:
        self.told.append(outcome)
        for problem, rewards in zip(outcome.problems, outcome.rewards, strict=True):
            self.weights[problem] *= 3.0 if rewards.mean() > 0.5 else 0.9

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = state["weights"]


class Balanced(Rarest):
    """Keeps groups of which a quarter to a half are right."""

    def keeps(self, rewards: Tensor) -> Tensor:
        return (rewards.mean(dim=1) >= 0.25) & (rewards.mean(dim=1) <= 0.5)


def fit(
    directory: Path, steps: int, rounds: int, kind: type[Rarest] = Rarest, **options: Any
) -> tuple[LaSeRModule, Rarest]:
    module = tiny_module(sampling_rounds=rounds)
    # 40 problems in steps of 8 are 5 draws an epoch.
    data = PromptDataModule(train=ArithmeticSource("train", size=40), prompts_per_step=8, curriculum=kind())
    saving_trainer(directory, steps, limit_val_batches=0).fit(module, datamodule=data, **options)
    curriculum = data.train_curriculum
    assert isinstance(curriculum, Rarest)
    assert curriculum is not data.curriculum, "a run has its own"
    return module, curriculum


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_resumed_run_chooses_and_learns_the_same(tmp_path: Path, rounds: int) -> None:
    whole, curriculum = fit(tmp_path / "whole", 4, rounds)
    # Behind the second step: in the middle of the first epoch, or, with further rounds, of a later one.
    resumed, again = fit(tmp_path / "resumed", 4, rounds, ckpt_path=tmp_path / "whole/step=2.ckpt", weights_only=True)
    assert again.chosen == curriculum.chosen[-len(again.chosen) :]
    assert len(again.chosen) < len(curriculum.chosen)
    assert torch.equal(again.weights, curriculum.weights)
    assert curriculum.weights.unique().numel() > 2
    for ours, theirs in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    # What it was told: all that a step sampled, in the order in which it was chosen.
    assert [told.step for told in curriculum.told] == [1, 2, 3, 4]
    assert [place for told in curriculum.told for place in told.problems] == [
        place for chosen in curriculum.chosen for place in chosen
    ]
    assert whole.last_rollout is not None
    last = curriculum.told[-1]
    assert torch.equal(last.rewards, whole.last_rollout.grouped(whole.last_rollout.rewards))
    assert torch.equal(last.self_rewards, whole.last_rollout.grouped(whole.last_rollout.self_rewards))
    assert [curriculum.problems[place].kind for place in last.problems] == last.kinds
    trained = ~last.advantages.isnan().any(dim=1)
    assert int(trained.sum()) == 8
    assert len(curriculum.chosen) > 4 or rounds == 1, "the verifier is one that makes further rounds"
    signal = last.advantages[trained].abs().sum(dim=1) > 0
    assert signal.tolist() == (last.rewards[trained].std(dim=1) > 0).tolist()


def test_a_step_is_filled_with_what_the_curriculum_keeps(tmp_path: Path) -> None:
    _, curriculum = fit(tmp_path, 1, 12, Balanced)
    (told,) = curriculum.told
    trained = ~told.advantages.isnan().any(dim=1)
    assert trained.sum() == 8
    # Of 4 solutions one or two are right; 3 would have a signal too.
    assert set(told.rewards[trained].sum(dim=1).tolist()) <= {1.0, 2.0}
    assert (told.rewards.sum(dim=1) == 3).any()


class ShortAtFirst(Rarest):
    """Cuts the responses of the first step at 6 tokens, and those of later ones at the module's limit of 24."""

    def max_response_tokens(self, step: int) -> int | None:
        return 6 if step < 1 else None


def test_the_curriculum_limits_the_length_of_responses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    original = LaSeRModule.context

    def noted(module: LaSeRModule, trained: Rollout) -> Any:
        context = original(module, trained)
        seen.append((context.max_response_tokens, int(trained.rollouts.response_lengths.max())))
        return context

    monkeypatch.setattr(LaSeRModule, "context", noted)
    fit(tmp_path, 2, 1, ShortAtFirst)
    assert seen == [(6, 6), (24, 24)]
