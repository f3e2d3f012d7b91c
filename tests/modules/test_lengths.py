"""Problems whose longest solutions do not fit are refused before the first step, and not when one is met."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from whole_runs import OddVerifier, quiet_trainer, tiny_policy

from laser_lightning import LaSeRModule, LastTokenSelfReward
from laser_lightning.data import PromptDataModule, Schedule, Stage
from laser_lightning.data.curriculum.curriculum import Curriculum
from laser_lightning.data.curriculum.uniform import UniformShuffling
from laser_lightning.data.sources import ProblemSource
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers.settings import VerificationSettings


class Sums(ProblemSource):
    """Problems of 4, 8 and 4 tokens."""

    def load(self) -> Dataset:
        return Dataset.from_dict({"problem": ["1+1=", "100+200=", "3+4="], "answer": ["3", "5", "7"]})


def fit(
    directory: Path,
    positions: int = 64,
    curriculum: Curriculum | None = None,
    evaluation: Sampling | None = None,
    micro_batch_tokens: int = 64,
) -> None:
    """Train for a step with responses of up to 5 tokens."""
    policy = tiny_policy()
    shapes = {**policy.config_overrides, "max_position_embeddings": positions}
    module = LaSeRModule(
        policy=replace(policy, config_overrides=shapes),
        self_reward=LastTokenSelfReward("<|reward|>", reference=-20.0),
        verifier=OddVerifier(),
        group_size=8,
        sampling=Sampling(max_response_tokens=5),
        update=UpdateSettings(micro_batch_tokens=micro_batch_tokens),
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(samples=2, at_start=False, sampling=evaluation),
    )
    chosen = {} if curriculum is None else {"curriculum": curriculum}
    data = PromptDataModule(train=Sums(), val={"sums": Sums()}, prompts_per_step=3, **chosen)
    quiet_trainer(directory, 1).fit(module, datamodule=data)


LONGER = Schedule([Stage(), Stage(from_step=2, max_response_tokens=9)])
TRAIN = r"Row 1 of the set 'train' has a prompt of 8 tokens, which with a response of up to"


@pytest.mark.parametrize(
    ("most", "options", "said"),
    [
        # 8 + 5 = 13
        (13, {}, rf"{TRAIN} 5 tokens \(sampling\.max_response_tokens\) does not fit into the 12 positions"),
        # 8 + 9 = 17, from the third step on
        (17, {"curriculum": LONGER}, rf"{TRAIN} 9 tokens \(max_response_tokens of a stage of data\.curriculum\)"),
        # 8 + 6 = 14
        (14, {"evaluation": Sampling(6)}, r"of the set 'sums' .* 6 tokens \(evaluation\.sampling\.max_response"),
    ],
    ids=["training", "a later stage", "evaluation"],
)
def test_what_does_not_fit_into_the_model(most: int, options: dict[str, Any], said: str, tmp_path: Path) -> None:
    fit(tmp_path, most, **options)
    with pytest.raises(UserError, match=said):
        fit(tmp_path, most - 1, **options)


def test_what_does_not_fit_into_a_micro_batch(tmp_path: Path) -> None:
    fit(tmp_path, micro_batch_tokens=13)
    with pytest.raises(UserError, match=rf"{TRAIN} 5 tokens .* into update\.micro_batch_tokens = 12: raise it, or"):
        fit(tmp_path, micro_batch_tokens=12)
    with pytest.raises(UserError, match=rf"{TRAIN} 9 tokens .* into update\.micro_batch_tokens = 16: raise it, or"):
        fit(tmp_path, micro_batch_tokens=16, curriculum=LONGER)


def test_a_stage_with_a_lower_limit() -> None:
    stages = Schedule([Stage(max_response_tokens=3), Stage(from_step=2, max_response_tokens=4)])
    assert stages.longest_response(9) == 4  # that of model.sampling is never used
    assert LONGER.longest_response(12) == 12
    assert UniformShuffling().longest_response(12) == 12
