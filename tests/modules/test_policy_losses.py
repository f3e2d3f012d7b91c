"""Losses that read whole distributions, in runs: micro-batches and chunks change nothing; what is logged of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from whole_runs import quiet_trainer

from laser_lightning import LaSeRModule, LastTokenSelfReward, PromptDataModule
from laser_lightning.data import ArithmeticSource
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.losses import LpRegPolicyLoss, PolicyLoss, ROVERPolicyLoss, TopKDistillation
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.policy import model as policy_module
from laser_lightning.policy.model import EMBEDDED, PolicySettings
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers import FunctionVerifier
from laser_lightning.verifiers.settings import VerificationSettings


def trained(directory: Path, loss: PolicyLoss, budget: int, **options: Any) -> tuple[Tensor, dict[str, float]]:
    """The weights behind two updates on one rollout, and the metrics of the step."""
    torch.manual_seed(0)
    module = LaSeRModule(
        PolicySettings(EMBEDDED),
        LastTokenSelfReward("<|reward|>", loss_weight=0.0, reference=-20.0),
        FunctionVerifier(lambda response, gold: float(sum(map(ord, response)) % 2)),  # every group has a signal
        group_size=4,
        sampling=Sampling(max_response_tokens=48),
        policy_loss=loss,
        update=UpdateSettings(micro_batch_tokens=budget, epochs=2),
        # Steps of plain gradient descent differ by no more than gradients do, where Adam's may flip a sign.
        optimizer=OptimizerSettings(1e-2, algorithm="sgd"),
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(at_start=False, at_end=False),
        seed=0,
        **options,
    )
    trainer = quiet_trainer(directory, 2)
    data = PromptDataModule(train=ArithmeticSource(size=16, seed=1), prompts_per_step=4, seed=0)
    trainer.fit(module, datamodule=data)
    weights = torch.cat([parameter.detach().flatten() for parameter in module.policy.parameters()])
    return weights, {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize(
    ("loss", "options", "logged"),
    [
        (LpRegPolicyLoss(share=0.5), {}, {"lp_reg/regularised": (1e-3, 0.5)}),
        (ROVERPolicyLoss(), {}, {"rover/next_q": (-1.0, 1.0)}),
        # The teacher is the policy of before training: nearly all likely tokens are the same, and the mass is near 1.
        (
            TopKDistillation(4),
            {"teacher": PolicySettings(EMBEDDED)},
            {"top_k/overlap": (0.95, 1.0), "top_k/mass": (0.9, 1.0)},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PolicyLoss) else "",
)
def test_micro_batches_and_chunks_do_not_change_the_step(
    loss: PolicyLoss,
    options: dict[str, Any],
    logged: dict[str, tuple[float, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, metrics = trained(tmp_path, loss, 16_384, **options)
    monkeypatch.setattr(policy_module, "LOGITS_AT_ONCE", 260 * 100)  # 25 positions of a reading at a time
    in_parts, of_parts = trained(tmp_path, loss, 200, **options)
    torch.testing.assert_close(in_parts, weights, rtol=0, atol=1e-6)
    assert metrics["train/gradient_norm"] > 5e-4
    for name, (low, high) in logged.items():
        assert low <= metrics[f"train/{name}"] <= high + 1e-6  # a share rounds
        assert of_parts[f"train/{name}"] == pytest.approx(metrics[f"train/{name}"], abs=1e-4)
    assert metrics["train/mismatch/ratio_mean"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["train/mismatch/ratio_outside"] == 0


def test_a_loss_of_a_teacher_needs_one() -> None:
    with pytest.raises(UserError, match=r"policy_loss is TopKDistillation, which needs a teacher"):
        trained(Path(), TopKDistillation(), 200)
