"""``16-mixed`` on the CPU, by a plugin with a GradScaler: unscale, clip, test, step; and the scale finds its place."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from laser_lightning import PromptDataModule, SupervisedModule
from laser_lightning.data import ArithmeticSource
from laser_lightning.errors import UserError
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.policy.model import PolicySettings

Fit = Callable[..., tuple[SupervisedModule, lightning.Trainer]]


@pytest.fixture
def fit(policy_dir: Path, tmp_path: Path) -> Fit:
    """``fit(steps, scale=..., max_grad_norm=..., spoil=..., resume=..., **trainer)``: steps of SGD at a rate of 1, in
    float16 where a scale is given. ``spoil`` lists the batches whose loss is not finite."""

    def run(
        steps: int,
        scale: float | None = None,
        max_grad_norm: float | None = 0.5,
        spoil: tuple[int, ...] = (),
        resume: Path | None = None,
        max_skipped_steps: int = 10,
        dtype: Any = "float32",
        **options: Any,
    ) -> tuple[SupervisedModule, lightning.Trainer]:
        class Spoiled(SupervisedModule):
            def differentiable(self, *inputs: Any) -> Any:
                return super().differentiable(*inputs) * (math.nan if self.trainer.fit_loop.batch_idx in spoil else 1)

        torch.manual_seed(0)
        module = Spoiled(
            PolicySettings(path=str(policy_dir), dtype=dtype),
            micro_batch_sequences=3,
            optimizer=OptimizerSettings(
                learning_rate=1.0, weight_decay=0.0, algorithm="sgd", max_grad_norm=max_grad_norm
            ),
            max_skipped_steps=max_skipped_steps,
        )
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        scaler = None if scale is None else GradScaler("cpu", init_scale=scale)
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=steps,
            default_root_dir=tmp_path,
            plugins=None if scaler is None else MixedPrecision("16-mixed", "cpu", scaler),
            **{**quiet, **options},
        )
        data = PromptDataModule(train=ArithmeticSource("train", size=64), prompts_per_step=8)
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        return module, trainer

    return run


def weights(module: SupervisedModule) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.policy.parameters()])


def scale_of(trainer: lightning.Trainer) -> float:
    plugin = trainer.precision_plugin
    assert isinstance(plugin, MixedPrecision)
    assert plugin.scaler is not None
    return float(plugin.scaler.get_scale())


@pytest.mark.parametrize("max_grad_norm", [0.5, None])
def test_sgd_moves_as_in_float32(fit: Fit, max_grad_norm: float | None) -> None:
    start = weights(fit(0)[0])
    plain, in_float32 = fit(1, max_grad_norm=max_grad_norm)
    scaled, in_float16 = fit(1, 1024.0, max_grad_norm)
    if max_grad_norm is not None:  # the rate is 1, and the gradient's norm is above the limit
        assert float(in_float32.callback_metrics["train/gradient_norm"]) > 1
        assert float((weights(scaled) - start).norm()) == pytest.approx(0.5, rel=1e-4)
    norms = [float(run.callback_metrics["train/gradient_norm"]) for run in (in_float16, in_float32)]
    assert norms[0] == pytest.approx(norms[1], rel=0.01)  # float16's numbers are 1e-3 apart, over two layers
    moves = [weights(module) - start for module in (scaled, plain)]
    assert float((moves[0] - moves[1]).norm() / moves[1].norm()) < 0.02


def test_the_scale_is_halved_until_it_fits_without_an_end_of_the_run(fit: Fit) -> None:
    with pytest.warns(UserWarning, match=r"Optimizer step 0 is skipped .* at a loss scale of 1\.09951e\+12, now 5\.4"):
        _, trainer = fit(1, 2.0**40)
    halvings = math.log2(2.0**40 / scale_of(trainer))
    assert halvings > 10  # max_skipped_steps
    assert trainer.global_step == 1
    # One batch for each halving, and one for the step.
    assert trainer.fit_loop.epoch_loop.total_batch_idx + 1 == halvings + 1


@pytest.mark.filterwarnings("ignore:Optimizer step 0 is skipped")
def test_a_loss_that_is_not_finite_counts_and_stops(fit: Fit) -> None:
    with pytest.raises(UserError, match=r"Stopped: 3 optimizer steps in a row were skipped .* the loss is nan and the"):
        fit(1, 1024.0, spoil=(0, 1, 2, 3), max_skipped_steps=3)


@pytest.mark.filterwarnings("ignore:Optimizer step 0 is skipped")
def test_gradients_that_overflow_at_any_scale_count_and_stop(fit: Fit) -> None:
    # From a scale of 4 it takes two halvings to 1, and then three steps that count.
    class Overflowing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, values: Tensor) -> Tensor:
            return values.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Any:
            return gradient * torch.inf

    differentiable = SupervisedModule.differentiable
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SupervisedModule, "differentiable", lambda *args: Overflowing.apply(differentiable(*args)))
        with pytest.warns(UserWarning) as told, pytest.raises(UserError, match="Stopped: 3 optimizer steps"):  # noqa: PT030
            fit(1, 4.0, max_skipped_steps=3)
    said = [str(one.message).partition("changed: ")[2] for one in told if "is skipped" in str(one.message)]
    assert [text.startswith("gradients overflow float16") for text in said] == [True, True, False, False, False]


@pytest.mark.filterwarnings("ignore:Optimizer step")
def test_a_resumed_run_is_bit_for_bit_the_other(fit: Fit, tmp_path: Path) -> None:
    scale = 2.0**30  # some steps are skipped, before and behind the checkpoint there may be more
    fit(2, scale)[1].save_checkpoint(tmp_path / "two.ckpt")
    resumed, one = fit(4, 1024.0, resume=tmp_path / "two.ckpt")  # the scale is that of the checkpoint
    whole, other = fit(4, scale)
    assert torch.equal(weights(resumed), weights(whole))
    assert scale_of(one) == scale_of(other)
    states = [run.precision_plugin.state_dict() for run in (one, other)]
    assert states[0] == states[1]  # the steps until it is raised, too


def test_float16_weights_without_a_scale_are_warned_of(fit: Fit) -> None:
    with pytest.warns(UserWarning, match=r"float16 and the loss is not scaled.*trainer\.precision to 16-mixed"):
        fit(0, dtype="float16")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*the loss is not scaled")
        fit(0, 1024.0, dtype="float16")
        fit(0)
