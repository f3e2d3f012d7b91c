"""Every pass of a model, in whichever hook, is computed in the trainer's precision."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from whole_runs import OddVerifier, quiet_trainer, tiny_policy

from laser_lightning import JudgingSettings, LaSeRModule, LastTokenSelfReward, RISEModule
from laser_lightning.callbacks import ReferenceConstantCalibration
from laser_lightning.data import ArithmeticSource, FileSource, PromptDataModule
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.losses import TeacherKL
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.modules.verification_prompts import VerificationPrompts
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.policy.character_tokenizer import REWARD_TOKEN
from laser_lightning.policy.model import PolicySettings
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers.settings import VerificationSettings

LARGEST_LAYER = 64  # of the tiny model; its head, which is larger, computes in float32 always


@pytest.fixture
def precisions(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The type in which each linear layer computed."""
    found = []
    plain = torch.nn.Linear.forward

    def noted(layer: torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
        result = plain(layer, values)
        if layer.out_features <= LARGEST_LAYER:
            found.append(result.dtype)
        return result

    monkeypatch.setattr(torch.nn.Linear, "forward", noted)
    return found


def head() -> LastTokenSelfReward:
    return LastTokenSelfReward(REWARD_TOKEN, beta=0.5, reference="calibrate")


def of_policy(kind: type[LaSeRModule], policy: PolicySettings, **options: Any) -> LaSeRModule:
    return kind(
        policy=policy,
        verifier=OddVerifier(),
        group_size=4,
        sampling=Sampling(max_response_tokens=32),  # long enough for the random model to finish now and then
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(samples=2),
        **options,
    )


def everything(policy: PolicySettings) -> LaSeRModule:
    """With passes of old policy, reference and teacher, and judging updates."""
    update = UpdateSettings(epochs=2, kl_coef=0.1, terms=[TeacherKL()], judging=JudgingSettings(updates=1))
    return of_policy(LaSeRModule, policy, self_reward=head(), update=update, teacher=policy)


def rise(policy: PolicySettings) -> LaSeRModule:
    """With a vocabulary in which a random model's responses can be asked about."""
    prompts = VerificationPrompts("{problem}|{response}?", "^([yn])", "y", "n", max_response_tokens=5)
    given = LastTokenSelfReward(REWARD_TOKEN, loss_weight=0.0, reference=-20.0)
    return of_policy(RISEModule, tiny_policy(), self_reward=given, verification_prompts=prompts)


def arithmetic(directory: Path) -> PromptDataModule:
    sets = {"sums": ArithmeticSource("val", size=2)}
    return PromptDataModule(train=ArithmeticSource("train", size=8), val=sets, predict=sets, prompts_per_step=2)


def recorded(directory: Path) -> PromptDataModule:
    lines = [{"q": f"{a}+1", "text": f"#{a + 1 + slip}", "score": 1 - slip} for a in range(4) for slip in (0, 1)]
    (directory / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = FileSource(str(directory / "rows.jsonl"), "q", None, "text", reward_column="score")
    return PromptDataModule(train=source, val={"sums": source}, prompts_per_step=2)


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (everything, arithmetic),
        (rise, arithmetic),
        (lambda policy: SupervisedModule(policy, self_reward=head()), recorded),
    ],
    ids=["laser", "rise", "offline"],
)
def test_all_passes_of_a_run(
    make: Any, data: Any, precisions: list[torch.dtype], policy_dir: Path, tmp_path: Path
) -> None:
    module, datamodule = make(PolicySettings(str(policy_dir))), data(tmp_path)
    calibration = ReferenceConstantCalibration(prompts=8, max_emission_rate=1.0)
    trainer = quiet_trainer(tmp_path, 1, precision="bf16-mixed", callbacks=[calibration])
    trainer.fit(module, datamodule=datamodule)
    trainer.validate(module, datamodule=datamodule, verbose=False)
    if isinstance(module, LaSeRModule):
        trainer.predict(module, datamodule=datamodule, return_predictions=False)
    assert calibration.result is not None or isinstance(module, RISEModule)
    assert set(precisions) == {torch.bfloat16}


def test_the_reference_constant_is_the_mean_that_a_step_would_read(
    policy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same solutions, drawn anew within the first step and scored there, in the engine's pass."""
    read: list[float] = []
    plain = LaSeRModule.sample_groups

    def reading(module: LaSeRModule, problems: Any) -> Any:
        prompts = [problem.prompt_ids for problem in module.data.train_problems]
        drawn = module.sampler.draw(prompts, 4, module.sampling, torch.Generator().manual_seed(0))
        read.append(float(drawn.reward_token_log_probs[drawn.finished, 0].double().mean()))
        return plain(module, problems)

    monkeypatch.setattr(LaSeRModule, "sample_groups", reading)
    constants = []
    for precision in ("bf16-mixed", "32-true"):
        update = UpdateSettings(kl_coef=0.1)  # with a gradient in every step
        module = of_policy(LaSeRModule, PolicySettings(str(policy_dir)), self_reward=head(), update=update)
        callbacks = [ReferenceConstantCalibration(prompts=8, max_emission_rate=1.0)]
        quiet_trainer(tmp_path, 1, precision=precision, callbacks=callbacks, limit_val_batches=0).fit(
            module, datamodule=arithmetic(tmp_path)
        )
        constants.append(float(module.self_reward.reference_constant))
    assert constants == pytest.approx(read, abs=1e-6)
    assert abs(constants[0] - constants[1]) > 1e-3, "the precisions are told apart"
