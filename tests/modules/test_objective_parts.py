"""Parts of the objective in a run: what they remember, what they ask for, and whose tokens they train."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from whole_runs import quiet_trainer

from laser_lightning import (
    AdvantageEstimator,
    LaSeRModule,
    LastTokenSelfReward,
    LossTerm,
    PromptDataModule,
    StepContext,
)
from laser_lightning.data import ArithmeticSource
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.losses import ClippedPolicyLoss, PolicyTokens, TokenLosses
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.teacher import load_teacher
from laser_lightning.objective.advantages import AdvantageSettings
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import EMBEDDED, Policy, PolicyOutputs, PolicySettings, load_tokenizer
from laser_lightning.records.batching import MicroBatch, Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.verifiers import ExactVerifier
from laser_lightning.verifiers.settings import VerificationSettings


class Remembering(AdvantageEstimator):
    """Distances from the mean, less the number of steps that were seen."""

    def __init__(self) -> None:
        self.steps = 0

    def __call__(self, rewards: Tensor, rollout: Rollout, context: StepContext) -> Tensor:
        return rewards - rewards.mean(dim=1, keepdim=True) - 0.1 * (self.steps + 1)

    def learn(self, rollout: Rollout, context: StepContext) -> None:
        assert context.step == self.steps, "as many as there were"
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state.get("steps", 0)


class TokenLevel(AdvantageEstimator):
    """The distance from the group's mean, at the first token of each response alone."""

    def __call__(self, rewards: Tensor, rollout: Rollout, context: StepContext) -> Tensor:
        width = rollout.rollouts.response_ids.shape[1]
        centred = (rewards - rewards.mean(dim=1, keepdim=True)).flatten()
        return torch.cat((centred[:, None], centred.new_zeros(len(centred), width - 1)), dim=1)


class AsksTeacher(LossTerm):
    """The mean log-prob of the teacher."""

    needs_teacher = True
    seen: list[Tensor]

    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Tensor:
        assert targets.teacher_log_probs is not None
        self.__dict__.setdefault("seen", []).append((targets.teacher_log_probs, targets.old_log_probs))
        return outputs.log_probs.sum() * 0


class OthersTokens(TransformersEngine):
    """Says that the policy did not sample the first tokens of its responses."""

    def generate(self, policy: Policy, prompts: Sequence[Sequence[int]], *args: Any) -> Rollouts:
        rollouts = super().generate(policy, prompts, *args)
        rollouts.loss_mask = torch.ones_like(rollouts.response_ids, dtype=torch.bool)
        rollouts.loss_mask[:, :3] = False
        return rollouts


def made(**options: Any) -> LaSeRModule:
    settings: dict[str, Any] = {
        "policy": PolicySettings(EMBEDDED),
        "self_reward": LastTokenSelfReward("<|reward|>", loss_weight=0.0, reference=-20.0),
        "verifier": ExactVerifier(r"#(\d+)$"),
        "group_size": 4,
        "sampling": Sampling(max_response_tokens=64),
        "verification": VerificationSettings(workers=0),
        "evaluation": EvaluationSettings(at_start=False, at_end=False),
        "optimizer": OptimizerSettings(1e-4),
        "seed": 0,
    }
    return LaSeRModule(**{**settings, **options})


def fit(directory: Path, module: LaSeRModule, steps: int, checkpoint: Path | None = None) -> lightning.Trainer:
    torch.manual_seed(0)
    trainer = quiet_trainer(directory, steps)
    data = PromptDataModule(train=ArithmeticSource(size=64, seed=1), prompts_per_step=4, seed=0)
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=False)
    return trainer


def weights(module: LaSeRModule) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.policy.parameters()])


def test_what_a_part_remembers_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    whole = made(advantage=AdvantageSettings(Remembering()))
    fit(tmp_path, whole, 3)
    first, rest = (made(advantage=AdvantageSettings(Remembering())) for _ in range(2))
    fit(tmp_path, first, 1).save_checkpoint(tmp_path / "one.ckpt")
    fit(tmp_path, rest, 3, tmp_path / "one.ckpt")
    assert rest.advantage.estimator.state_dict() == {"steps": 3}
    assert torch.equal(weights(rest), weights(whole))
    forgetful = made(advantage=AdvantageSettings(Remembering()))
    forgetful.objective_parts.load_state_dict = lambda states: None  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="as many as there were"):
        fit(tmp_path, forgetful, 3, tmp_path / "one.ckpt")


def test_advantages_of_tokens_reach_the_update(tmp_path: Path) -> None:
    module = made(advantage=AdvantageSettings(TokenLevel(), mixing=None))
    targets, seen = module.targets, []
    module.targets = lambda *args: seen.append(targets(*args)) or seen[-1]  # type: ignore[method-assign, func-returns-value]
    fit(tmp_path, module, 2)
    advantages = torch.cat([target.advantages[:, :1] for target in seen])
    assert all(target.advantages.ndim == 2 and not target.advantages[:, 1:].any() for target in seen)
    assert bool(advantages.any())


def test_tokens_that_the_policy_did_not_sample_are_not_trained_on(tmp_path: Path) -> None:
    masks: list[Tensor] = []

    class Spy(ClippedPolicyLoss):
        def __call__(self, tokens: PolicyTokens) -> TokenLosses:
            masks.append(tokens.mask)
            return super().__call__(tokens)

    fit(tmp_path, made(engine=OthersTokens(), policy_loss=Spy()), 1)
    assert masks
    assert not any(mask[:, :3].any() for mask in masks)
    assert any(mask.any() for mask in masks)


def test_a_teacher_says_how_likely_it_finds_the_sampled_tokens(tmp_path: Path) -> None:
    term = AsksTeacher()
    update = UpdateSettings(terms=[term], epochs=2)
    module = made(update=update, teacher=PolicySettings(EMBEDDED))
    trainer = fit(tmp_path, module, 2)
    for teacher, old in term.seen[:1]:  # before the first update the teacher is the policy itself
        torch.testing.assert_close(teacher, old, rtol=0, atol=1e-5)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    saved = torch.load(tmp_path / "saved.ckpt", weights_only=False)["state_dict"]
    assert not any(name.startswith("teacher.") for name in saved)


def test_a_teacher_without_use_and_a_use_without_teacher_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.teacher is set, and nothing asks"):
        made(teacher=PolicySettings(EMBEDDED))
    with pytest.raises(UserError, match=r"update\.terms\.0 is AsksTeacher, which needs a teacher"):
        made(update=UpdateSettings(terms=[AsksTeacher()]))


def test_a_teacher_with_other_tokens_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(PolicySettings(EMBEDDED))
    tokenizer.add_tokens(["<|more|>"])
    with pytest.raises(UserError, match=r"token '<\|more\|>' has the id .* and the teacher does not know it"):
        load_teacher(PolicySettings(EMBEDDED), tokenizer)
