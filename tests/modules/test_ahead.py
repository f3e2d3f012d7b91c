"""Rounds that are drawn while the updates before them run."""

import os
import signal
import zlib
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from whole_runs import TextVerifier, saving_trainer, tiny_module

from laser_lightning import MaskedImportance, NoImportance, RISEModule, TruncatedImportance
from laser_lightning.data import ArithmeticSource, PromptDataModule, Schedule, Stage
from laser_lightning.data.curriculum.mopps import MoPPS
from laser_lightning.data.problem import Problem
from laser_lightning.errors import UserError
from laser_lightning.modules.ahead import RoundsAhead
from laser_lightning.modules.laser import LaSeRModule, SampledStep
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.stopping import StopOnSignal
from laser_lightning.modules.verification_prompts import VerificationPrompts
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout import RolloutSettings, TransformersEngine
from laser_lightning.runs.interruption import Stopped


class Elsewhere(TransformersEngine):
    """Decodes with a copy of the weights; notes which it drew with, by the number of steps that made them."""

    elsewhere, needs_whole_weights = True, False
    fails_behind: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.stale, self.steps, self.drawn = True, 0, []

    def take_weights(self, policy: Policy, weights: Any) -> None:
        if self.stale:
            self.copy, self.of_step = deepcopy(policy), self.steps
        self.stale = False

    def weights_changed(self) -> None:
        self.stale = True

    def generate(self, policy: Policy, prompts: Any, *args: Any) -> Any:
        if len(self.drawn) == self.fails_behind:
            raise UserError("No more.")
        self.drawn.append((self.of_step, len(prompts)))
        return super().generate(self.copy, prompts, *args)


class Noting(LaSeRModule):
    """Notes what each step is handed, what it trains on, and the weights that it begins with.

    At ``told_at`` it is told to stop in the middle of a step, where the next rounds are being drawn.
    """

    told_at: int | None = None

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.handed: list[list[int]] = []
        self.trained: list[tuple[list[int], int, Rollouts]] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def note_step(self) -> None:
        if isinstance(self.engine, Elsewhere):
            self.engine.steps = self.trainer.global_step

    def on_validation_start(self) -> None:
        super().on_validation_start()
        self.note_step()

    def sample_groups(self, problems: list[Problem]) -> SampledStep:
        self.note_step()
        self.weights.append({name: value.clone() for name, value in self.policy.lm.state_dict().items()})
        self.handed.append([problem.index for problem in problems])
        step = super().sample_groups(problems)
        trained = step.sampled
        self.trained.append(([p.index for p in trained.problems], self.ahead.drawn_at, trained.rollouts))
        return step

    def compute_advantages(self, *args: Any) -> Any:
        if self.trainer.global_step == self.told_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().compute_advantages(*args)


class Staged(Noting):
    """Notes of each step the length limit that its parts see, its longest response, and the kinds of its problems."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.stages: list[tuple[int, int, set[str | None]]] = []

    def context(self, trained: Rollout) -> Any:
        context = super().context(trained)
        longest = int(trained.rollouts.response_lengths.max())
        self.stages.append((context.max_response_tokens, longest, {problem.kind for problem in trained.problems}))
        return context


class NotingRISE(Noting, RISEModule):
    """The same of RISE."""


class CoinVerifier(TextVerifier):
    """Rewards of which hardly any group has only one kind."""

    def reward(self, response: str, gold: str) -> float:
        return float(zlib.crc32(response.encode()) % 2)


def noting(ahead: int, kind: Any = Noting, **options: Any) -> Any:
    settings = {
        "rollout": RolloutSettings(ahead),
        "engine": Elsewhere(),
        "verifier": CoinVerifier(),
        "optimizer": OptimizerSettings(learning_rate=0.1, algorithm="sgd", max_grad_norm=None),
    }
    return tiny_module(kind, **settings | options)


def fit(directory: Path, model: LaSeRModule, steps: int, callbacks: Any = (), **options: Any) -> dict[str, float]:
    evaluation = {"limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None}
    trainer = saving_trainer(directory, steps, callbacks, **evaluation)
    curriculum = options.pop("curriculum", None)
    order = {"shuffle": False} if curriculum is None else {"curriculum": curriculum}
    data = PromptDataModule(
        train=ArithmeticSource("train", size=40), val={"sums": ArithmeticSource("val", size=3)}, prompts_per_step=4,
        **order,
    )  # fmt: skip
    trainer.fit(model, datamodule=data, **options)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def batch(number: int) -> list[int]:
    """The problems of a batch: the loader deals them in their order."""
    return list(range(4 * number, 4 * number + 4))


@pytest.mark.parametrize(
    ("ahead", "handed", "drawn_at"),
    [
        (0, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]),
        (1, [0, 2, 3, 4, 5], [0, 0, 1, 2, 3]),
        (2, [0, 3, 4, 5, 6], [0, 0, 0, 2, 2]),  # the drawing in `RoundsAhead`
        (3, [0, 4, 5, 6, 7], [0, 0, 0, 0, 3]),
    ],
)
def test_which_weights_draw_which_round(ahead: int, handed: list[int], drawn_at: list[int], tmp_path: Path) -> None:
    model = noting(ahead)
    values = fit(tmp_path, model, steps=5)
    assert model.handed == [batch(number) for number in handed]
    assert [problems for problems, *_ in model.trained] == [batch(number) for number in range(5)]
    assert [step for _, step, _ in model.trained] == drawn_at
    assert values.get("train/rollout/staleness") == (4 - drawn_at[-1] if ahead else None)
    # The engine's log-probs are those of the weights of then, and not of any others.
    for _, step, rollouts in model.trained:
        far = []
        for weights in model.weights:
            model.policy.lm.load_state_dict(weights)
            own = model.sampler.log_probs(model.policy, rollouts, 1.0, "old_log_probs_pass").tokens
            far.append(float((own - rollouts.sampling_log_probs).abs().max()))
        assert far[step] < 1e-5
        assert min(gap for number, gap in enumerate(far) if number != step) > 1e-4


def test_an_evaluation_draws_with_the_weights_of_the_moment(tmp_path: Path) -> None:
    model = noting(1)
    fit(tmp_path, model, steps=4)
    # Evaluations draw for 3 problems, and steps for 4; those of steps 0 and 4 stand at both ends.
    assert [step for step, problems in model.engine.drawn if problems == 3] == [0, 2, 4]
    assert [step for step, problems in model.engine.drawn if problems == 4] == [0, 0, 1, 2, 3]


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_resumed_run_is_the_run_that_it_would_have_been(ahead: int, tmp_path: Path) -> None:
    whole = noting(ahead)
    fit(tmp_path / "whole", whole, steps=6, curriculum=MoPPS())
    for step in (2, 3):  # with ahead 2: where nothing is left of what was drawn, and in the middle
        resumed = noting(ahead)
        saved = tmp_path / "whole" / f"step={step}.ckpt"
        fit(tmp_path / f"{step}", resumed, steps=6, curriculum=MoPPS(), ckpt_path=saved, weights_only=True)
        assert [trained[:2] for trained in resumed.trained] == [trained[:2] for trained in whole.trained[step:]]
        ends = [torch.load(tmp_path / run / "step=6.ckpt", weights_only=True) for run in ("whole", str(step))]
        for key in ("state_dict", "laser_random_states", "laser_ahead", "PromptDataModule"):
            assert_equal(ends[0][key], ends[1][key])


def assert_equal(ours: Any, theirs: Any) -> None:
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    else:
        assert ours == theirs


PRODUCTS = (6, 6, {"mul21"})
SUMS = (12, 12, {"add5"})


def staged(directory: Path, ahead: int, steps: int = 6, **options: Any) -> Any:
    stages = [Stage(kinds=["mul21"], max_response_tokens=6), Stage(2, kinds=["add5"], max_response_tokens=12)]
    model = noting(ahead, Staged)
    fit(directory, model, steps, curriculum=Schedule(stages), **options)
    return model


# The batch that is handed out in step 2, the first of sums, is trained on in step 2 + ahead. It is drawn together with
# one of products in step 2, with ahead 2, and in step 3, with ahead 3.
@pytest.mark.parametrize("ahead", [0, 1, 2, 3])
def test_the_length_limit_is_that_of_the_stage_of_the_problems(ahead: int, tmp_path: Path) -> None:
    assert staged(tmp_path, ahead).stages == [PRODUCTS] * (2 + ahead) + [SUMS] * (4 - ahead)


def test_a_resumed_run_keeps_the_stage_of_what_waits(tmp_path: Path) -> None:
    whole = staged(tmp_path / "whole", 3)
    saved = tmp_path / "whole/step=2.ckpt"
    (own,) = torch.load(saved, weights_only=True)["laser_ahead"]
    # Step 0 was handed b0 to b3, and draws the last three; step 1 was handed b4, of products, which waits for step 3.
    assert [one["handed_at"] for one in own["rounds"]] == [0, 0]
    assert own["waiting_handed_at"] == [1]
    resumed = staged(tmp_path / "resumed", 3, ckpt_path=saved, weights_only=True)
    assert resumed.stages == whole.stages[2:] == [PRODUCTS] * 3 + [SUMS]
    assert [trained[:2] for trained in resumed.trained] == [trained[:2] for trained in whole.trained[2:]]


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_step_that_is_broken_off_is_taken_anew(ahead: int, tmp_path: Path) -> None:
    fit(tmp_path / "whole", whole := noting(ahead), steps=4)
    told = noting(ahead)
    told.told_at = 2
    with pytest.raises(Stopped):
        fit(tmp_path / "told", told, steps=4, callbacks=[StopOnSignal()])
    resumed = noting(ahead)
    fit(tmp_path / "told", resumed, steps=4, ckpt_path=tmp_path / "told/last-stopped.ckpt", weights_only=True)
    assert [trained[:2] for trained in resumed.trained] == [trained[:2] for trained in whole.trained[2:]]
    for ours, theirs in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_rounds_of_two_processes_are_dealt_to_one_and_back() -> None:
    def rollouts(numbers: list[int]) -> dict[str, Any]:
        """A response of a token for each of two samples, which is the problem's number, and 50 more."""
        rows = [token for number in numbers for token in (number, number + 50)]
        of_rows = torch.tensor(rows)
        return {
            "prompt_ids": torch.tensor(numbers)[:, None],
            "prompt_lengths": torch.ones(len(numbers), dtype=torch.long),
            "response_ids": of_rows[:, None],
            "response_lengths": torch.ones(len(rows), dtype=torch.long),
            "finished": torch.zeros(len(rows), dtype=torch.bool),
            "sampling_log_probs": -of_rows[:, None].float(),
            "reward_token_log_probs": torch.full((len(rows), 1), torch.nan),
            "loss_mask": None,
        }

    def rounds(saved: list[dict[str, Any]], index: int, count: int) -> RoundsAhead:
        problems = [SimpleNamespace(index=number) for number in range(8)]
        ranks = SimpleNamespace(index=index, count=count)
        module: Any = SimpleNamespace(
            data=SimpleNamespace(train_problems=problems),
            ranks=ranks,
            device=torch.device("cpu"),
            strategy=ranks,
            trainer=SimpleNamespace(global_step=9),
        )
        found = RoundsAhead(RolloutSettings(1), module)
        found.load({"laser_ahead": saved})
        found._restore()
        return found

    # Batches of 4 of which rank 0 has every second one from the first on.
    older = [
        {"waiting": [[4, 6]], "rounds": [{"step": 7, "problems": [0, 2], "rollouts": rollouts([0, 2])}]},
        {"waiting": [[5, 7]], "rounds": [{"step": 7, "problems": [1, 3], "rollouts": rollouts([1, 3])}]},
    ]
    two: list[dict[str, Any]] = deepcopy(older)
    for state in two:
        state["waiting_handed_at"], state["rounds"][0]["handed_at"] = [8], 5
    for saved, handed_at, index, count, drawn, waits in (
        (two, (5, 8), 0, 1, [0, 1, 2, 3], [4, 5, 6, 7]),
        (two, (5, 8), 1, 2, [1, 3], [5, 7]),
        (two, (5, 8), 0, 2, [0, 2], [4, 6]),
        # Without a word of when: the round had the limit of step 7, and what waits gets that of the step that resumes.
        (older, (7, 9), 0, 2, [0, 2], [4, 6]),
    ):
        found = rounds(saved, index, count)
        (waiting,), (one,) = found._waiting, found._rounds
        assert [problem.index for problem in waiting.problems] == waits
        assert (one.handed_at, waiting.handed_at) == handed_at
        assert (one.step, [problem.index for problem in one.problems]) == (7, drawn)
        tokens = [token for number in drawn for token in (number, number + 50)]
        assert one.rollouts.result().response_ids.flatten().tolist() == tokens
        assert one.rollouts.result().prompt_ids.flatten().tolist() == drawn


def test_rise_verifies_with_the_weights_of_the_moment(tmp_path: Path) -> None:
    model = noting(1, NotingRISE, verification_prompts=VerificationPrompts(max_response_tokens=5))
    fit(tmp_path, model, steps=3)
    # 4 problems, and 16 solutions to verify.
    of_steps = [(step, prompts) for step, prompts in model.engine.drawn if prompts in (4, 16)]
    assert of_steps == [(0, 4), (0, 16), (0, 4), (1, 16), (1, 4), (2, 16), (2, 4)]


def test_the_policy_that_has_moved_on_is_made_up_for_unless_it_is_told_otherwise() -> None:
    def chosen(ahead: int, **update: Any) -> Any:
        return noting(ahead, update=UpdateSettings(**update)).update.importance

    assert chosen(0) is None
    assert type(chosen(1)) is TruncatedImportance
    assert type(chosen(1, importance=MaskedImportance())) is MaskedImportance
    assert type(chosen(1, importance=NoImportance())) is NoImportance


def test_weights_of_one_are_the_loss_without_weights() -> None:
    log_ratios, mask = torch.randn(2, 3), torch.ones(2, 3, dtype=torch.bool)
    weights, capped = NoImportance()(log_ratios, mask)
    assert weights.tolist() == [[1.0] * 3] * 2
    assert not capped.any()


def test_an_engine_in_the_process_cannot(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.engine is TransformersEngine, which .*EngineProcess"):
        fit(tmp_path, noting(1, engine=TransformersEngine()), steps=1)
    with pytest.raises(UserError, match=r"rollout\.ahead is -1"):
        RolloutSettings(-1)


def test_a_round_that_fails_ends_the_run(tmp_path: Path) -> None:
    model = noting(1)
    model.engine.fails_behind = 2
    with pytest.raises(UserError, match=r"No more\."):
        fit(tmp_path, model, steps=4)
