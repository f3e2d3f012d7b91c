"""When runs try their policy, and that the rest of the run is as it would be without."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.policy.model import EMBEDDED, PolicySettings
from laser_lightning.rollout import Sampling
from laser_lightning.rollout.self_test import Finding
from laser_lightning.runs.random_state import random_state
from laser_lightning.verifiers import MathVerifier
from laser_lightning.verifiers.settings import VerificationSettings

MODEL = ["evaluation mode", "causality", "head"]
ENGINE = ["decode", "refill"]
SHARED = "shared prompts"


class Watched(LaSeRModule):
    """Keeps what was found, and can do without looking."""

    found: list[list[Finding]]
    looks = True

    def check_policy(self) -> list[Finding]:
        if self.looks:
            self.found.append(super().check_policy())
        return []


def module() -> Watched:
    torch.manual_seed(0)
    model = Watched(
        policy=PolicySettings(EMBEDDED),
        self_reward=LastTokenSelfReward("<|reward|>", beta=0.25, reference=-16.75),
        verifier=MathVerifier(),
        group_size=2,
        sampling=Sampling(max_response_tokens=12),
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(samples=1),
        seed=0,
    )
    model.found = []
    return model


def data(**options: Any) -> PromptDataModule:
    return PromptDataModule(
        train=ArithmeticSource("train", size=8),
        val={"sums": ArithmeticSource("val", size=2)},
        predict={"sums": ArithmeticSource("val", size=2)},
        prompts_per_step=2,
        **options,
    )


def trainer(tmp_path: Path, **options: Any) -> lightning.Trainer:
    settings: dict[str, Any] = {"max_steps": 2, "accelerator": "cpu", "devices": 1, "logger": False}
    off = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "use_distributed_sampler")
    settings |= dict.fromkeys(off, False) | {"num_sanity_val_steps": 0, "default_root_dir": tmp_path}
    return lightning.Trainer(**settings | options)


def test_a_fit_tries_its_policy_once_and_is_the_same_without(tmp_path: Path) -> None:
    ended = []
    for looks in (True, False):
        model = module()
        model.looks = looks
        trainer(tmp_path).fit(model, datamodule=data())
        ended.append([random_state(model.generator), [parameter.detach() for parameter in model.parameters()]])
        if looks:  # with evaluations before the first step and behind the last
            (found,) = model.found
            assert [finding.way for finding in found] == [*MODEL, "training mode", *ENGINE, "update", SHARED]
    (states, weights), (same_states, same_weights) = ended
    assert str(states) == str(same_states)
    assert all(torch.equal(one, other) for one, other in zip(weights, same_weights, strict=True))


def test_an_evaluation_that_stands_alone_tries_what_it_uses(tmp_path: Path) -> None:
    model = module()
    trainer(tmp_path).validate(model, datamodule=data(), verbose=False)
    trainer(tmp_path).predict(model, datamodule=data(), return_predictions=False)
    assert [[finding.way for finding in found] for found in model.found] == 2 * [[*MODEL, *ENGINE, SHARED]]


def test_the_tolerance_is_that_of_the_precision(tmp_path: Path) -> None:
    model = module()
    trainer(tmp_path, precision="bf16-mixed").validate(model, datamodule=data(), verbose=False)
    assert {round(finding.tolerance_nats, 4) for finding in model.found[0]} == {0.3536}


def test_the_supervised_stage_is_tried_without_an_engine(tmp_path: Path) -> None:
    found = []

    class Watched(SupervisedModule):
        def check_policy(self) -> list[Finding]:
            found.extend(super().check_policy())
            return found

    problems = PromptDataModule(train=ArithmeticSource("train", size=4), prompts_per_step=2)
    trainer(tmp_path, max_steps=1).fit(Watched(PolicySettings(EMBEDDED)), datamodule=problems)
    assert [finding.way for finding in found] == [*MODEL, "training mode", "update"]


def test_a_wrong_model_is_refused_before_the_first_step(tmp_path: Path) -> None:
    model = module()
    model.configure_model()
    mlp = model.policy.lm.get_decoder().layers[0].mlp
    mlp.register_forward_hook(lambda module, args, output: output * (1.5 if module.training else 1.0))
    with pytest.raises(UserError, match="In the pass of the update Qwen2ForCausalLM has other log-probs"):
        trainer(tmp_path).fit(model, datamodule=data())
    assert model.last_rollout is None
