"""An engine that samples from another policy is noticed in each step, and stops the run after ten in a row."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from whole_runs import quiet_trainer

from laser_lightning import LaSeRModule, LastTokenSelfReward, PromptDataModule
from laser_lightning.data import ArithmeticSource
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.mismatch_limit import MismatchLimit
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.policy.model import PolicySettings
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.verifiers import ExactVerifier
from laser_lightning.verifiers.settings import VerificationSettings

TOKENS, SCORES = "train/mismatch/token_log_prob", "train/mismatch/reward_token_log_prob"


def count(limit: MismatchLimit, *gaps: float, scores: float = 0.0) -> list[str | None]:
    return [limit.count({TOKENS: gap, SCORES: scores}, step) for step, gap in enumerate(gaps, start=1)]


@pytest.mark.filterwarnings("ignore:In step")
@pytest.mark.parametrize(
    ("gap", "scores", "said"),
    [
        (0.2, 0.0, "the sampled tokens are 0.2 nat from the trainer's on average, more than update.max_mismatch = 0.1"),
        (0.1, 1.5, "the reward token are 1.5 nat from the trainer's on average, more than 10 times update.max_misma"),
    ],
)
def test_ten_in_a_row_stop(gap: float, scores: float, said: str) -> None:
    *before, last = count(MismatchLimit(0.1), *[gap] * 10, scores=scores)
    assert before == [None] * 9
    assert last is not None
    assert last.startswith(f"in 10 steps in a row, the last one being 10, the engine's log-probs of {said}")


@pytest.mark.filterwarnings("ignore:In step")
def test_a_good_step_begins_the_count_anew() -> None:
    # What is at the limit is not above it.
    assert count(MismatchLimit(0.1), *[0.2] * 9, 0.1, *[0.2] * 9, scores=1.0) == [None] * 19


@pytest.mark.filterwarnings("ignore:In step")
def test_a_step_in_which_nothing_was_compared_leaves_the_count() -> None:
    limit = MismatchLimit(0.1)
    count(limit, *[0.2] * 9)
    assert limit.count({"train/reward": 1.0}, 10) is None  # skipped
    assert limit.count({TOKENS: 0.2, SCORES: torch.nan}, 11) is not None  # an engine without scores


def test_null_is_no_limit() -> None:
    assert count(MismatchLimit(None), *[5.0] * 20) == [None] * 20


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(UserError, match=r"update\.max_mismatch is .*, and must be above 0, or null"):
        UpdateSettings(max_mismatch=limit)


# ----------------------------------------------------------------------------- a run


class ShiftedEngine(TransformersEngine):
    """Says that each token was 0.25 nat more likely than it was."""

    def generate(self, *args: Any, **options: Any) -> Rollouts:
        rollouts = super().generate(*args, **options)
        return replace(rollouts, sampling_log_probs=rollouts.sampling_log_probs + 0.25)


def fit(tmp_path: Path, steps: int, update: UpdateSettings, **options: Any) -> LaSeRModule:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    module = LaSeRModule(
        policy=PolicySettings("embedded", random_init=True, config_overrides=sizes),
        self_reward=LastTokenSelfReward("<|reward|>", beta=0.1, reference=-20.0),
        verifier=ExactVerifier(),
        group_size=2,
        sampling=Sampling(max_response_tokens=4),
        engine=ShiftedEngine(),
        update=update,
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(at_start=False, at_end=False),
        seed=0,
    )
    trainer = quiet_trainer(tmp_path, steps)
    data = PromptDataModule(train=ArithmeticSource("train", size=64), prompts_per_step=2)
    trainer.fit(module, datamodule=data, weights_only=False, **options)
    if steps < 10:
        trainer.save_checkpoint(tmp_path / "early.ckpt")
    return module


# With an entropy bonus each step has a gradient, whatever the rewards.
UPDATE = UpdateSettings(entropy_coef=0.1)


def test_a_run_stops_with_a_checkpoint_and_a_resumed_one_counts_on(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"In step 1 the engine's log-probs of the sampled tokens are 0\.25 nat"):
        fit(tmp_path, 4, UPDATE)
    with (
        pytest.warns(UserWarning, match="In step 10 "),
        pytest.raises(UserError, match=r"Stopped: in 10 steps in a row, the last one being 10, .*stopped\.ckpt"),
    ):
        fit(tmp_path, 20, UPDATE, ckpt_path=str(tmp_path / "early.ckpt"))
    assert (tmp_path / "stopped.ckpt").exists()
    # A module of its own is another run.
    assert LaSeRModule.load_from_checkpoint(tmp_path / "stopped.ckpt", engine=ShiftedEngine())._mismatch.steps == 0


@pytest.mark.filterwarnings("ignore:In step")
def test_a_run_goes_on_where_there_is_no_limit(tmp_path: Path) -> None:
    assert fit(tmp_path, 11, replace(UPDATE, max_mismatch=None))._mismatch.steps == 0


@pytest.mark.filterwarnings("ignore:In step")
def test_rollouts_of_several_updates_are_compared_with_the_policy_before_the_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Stopped: in 10 steps in a row, .* sampled tokens are 0\.25 nat"):
        fit(tmp_path, 40, replace(UPDATE, mini_batches=2))
