"""Weights in half precision learn through float32 copies: by hand, against a float32 twin, in runs, and resumed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import AdamW

from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.errors import UserError
from laser_lightning.modules.optimization import OptimizerSettings, build_optimizer
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.master_weights import MasterWeights
from laser_lightning.policy.model import PolicySettings

BF16, FP16 = torch.bfloat16, torch.float16


def sgd(*weights: nn.Parameter, rate: float) -> MasterWeights:
    optimizer = build_optimizer(weights, OptimizerSettings(learning_rate=rate, weight_decay=0.0, algorithm="sgd"))
    assert isinstance(optimizer, MasterWeights)
    return optimizer


def test_steps_add_up_by_hand() -> None:
    # Below 1 bfloat16 numbers are 1/256 apart. At 0.001 a step the copy is 0.999, 0.998, 0.997; the middle between 1
    # and the number below is 1 - 1/512 = 0.99805, which the second step passes. The bfloat16 weight alone would stay 1.
    weight = nn.Parameter(torch.ones(1, 1, dtype=BF16))
    optimizer, seen = sgd(weight, rate=0.001), []
    for _ in range(3):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        optimizer.zero_grad()
        seen.append(weight.item())
    assert seen == [1.0, 1 - 1 / 256, 1 - 1 / 256]
    assert optimizer.param_groups[0]["params"][0].item() == pytest.approx(0.997, abs=1e-7)


def test_gradients_of_several_passes_are_added_in_float32() -> None:
    # 256 + 1 is not a bfloat16 number.
    weight = nn.Parameter(torch.zeros(1, 1, dtype=BF16))
    optimizer = sgd(weight, rate=1.0)
    for gradient in (256.0, 1.0):
        weight.grad = torch.full_like(weight, gradient)
        optimizer.collect_gradients()
    copy = optimizer.param_groups[0]["params"][0]
    assert (weight.grad, copy.grad.item()) == (None, 257.0)
    weight.grad = torch.ones_like(weight)
    optimizer.zero_grad()
    assert weight.grad is copy.grad is None


@pytest.mark.parametrize("dtype", [BF16, FP16])
def test_the_copies_are_a_float32_twin(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    settings = OptimizerSettings(learning_rate=0.01, weight_decay=0.1)
    start = [torch.randn(3, 4, generator=generator).to(dtype), torch.randn(4, generator=generator).to(dtype)]
    weights = [nn.Parameter(value.clone()) for value in start]
    twins = [nn.Parameter(value.float()) for value in start]
    optimizer, twin = build_optimizer(weights, settings), build_optimizer(twins, settings)
    assert isinstance(twin, AdamW)
    for _ in range(5):
        for weight, other in zip(weights, twins, strict=True):
            weight.grad = torch.randn(weight.shape, generator=generator).to(dtype)
            other.grad = weight.grad.float()
        optimizer.step()
        optimizer.zero_grad()
        twin.step()
    copies = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for weight, copy, other in zip(weights, copies, twins, strict=True):
        assert torch.equal(copy, other)
        assert torch.equal(weight, other.to(dtype))


def test_float32_weights_beside_are_stepped_themselves() -> None:
    half, full = nn.Parameter(torch.ones(1, 1, dtype=BF16)), nn.Parameter(torch.ones(1, 1))
    optimizer = sgd(half, full, rate=0.5)
    assert optimizer.param_groups[0]["params"][1] is full
    half.grad, full.grad = torch.ones_like(half), torch.ones_like(full)
    optimizer.step()
    assert (half.item(), full.item()) == (0.5, 0.5)
    assert len(optimizer.state_dict()["master_weights"]) == 1


def test_float32_weights_alone_and_deepspeeds_need_no_copies() -> None:
    settings = OptimizerSettings()
    assert isinstance(build_optimizer([nn.Parameter(torch.ones(1))], settings), AdamW)
    assert isinstance(build_optimizer([nn.Parameter(torch.ones(1).bfloat16())], settings, strategy_copies=True), AdamW)


def test_float16_without_copies_is_refused() -> None:
    with pytest.raises(UserError, match="master_weights is false, and the weights are float16"):
        build_optimizer([nn.Parameter(torch.ones(1, dtype=FP16))], OptimizerSettings(master_weights=False))


# ------------------------------------------------------------------------ runs


@pytest.fixture(scope="module")
def fit(
    tmp_path_factory: pytest.TempPathFactory, save_model: Callable[..., Path], tiny_config: Callable[..., Any]
) -> Callable[..., tuple[SupervisedModule, lightning.Trainer]]:
    """``fit(steps, dtype=..., lora=..., resume=..., optimizer..., **trainer)`` runs the supervised stage."""
    directory = tmp_path_factory.mktemp("runs")
    path = save_model(directory / "policy", tiny_config(initializer_range=0.02))

    def run(
        steps: int,
        dtype: Any = "float32",
        lora: LoRASettings | None = None,
        resume: Path | None = None,
        optimizer: OptimizerSettings = OptimizerSettings(),
        **trainer: Any,
    ) -> tuple[SupervisedModule, lightning.Trainer]:
        torch.manual_seed(0)
        module = SupervisedModule(PolicySettings(path=str(path), dtype=dtype, lora=lora), optimizer=optimizer)
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        own = lightning.Trainer(
            accelerator="cpu",
            max_steps=steps,
            default_root_dir=directory,
            use_distributed_sampler=False,
            **quiet,
            **trainer,
        )
        data = PromptDataModule(train=ArithmeticSource("train", size=64), prompts_per_step=8)
        own.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        return module, own

    return run


def stepped(trainer: lightning.Trainer) -> Tensor:
    """What the optimizer steps, in one row."""
    groups = trainer.optimizers[0].param_groups
    return torch.cat([parameter.detach().float().flatten() for group in groups for parameter in group["params"]])


def share_changed(fit: Any, **options: Any) -> float:
    """The share of what is stepped that ten steps of AdamW at a rate of 1e-6 change."""
    settings = OptimizerSettings(**options.pop("optimizer", {}))
    before = stepped(fit(1, **options, optimizer=replace(settings, learning_rate=1e-30))[1])
    after = stepped(fit(10, **options, optimizer=settings)[1])
    return float((after != before).double().mean())


@pytest.fixture(scope="module")
def share_in_float32(fit: Any) -> float:
    """All but the embeddings of characters that do not come up."""
    share = share_changed(fit)
    assert share > 0.85
    return share


BFLOAT16 = {"bfloat16": {"dtype": "bfloat16"}, "bf16-true": {"precision": "bf16-true"}}


@pytest.mark.parametrize("half", BFLOAT16)
def test_the_share_of_weights_that_ten_steps_change(half: str, fit: Any, share_in_float32: float) -> None:
    assert share_changed(fit, **BFLOAT16[half]) == pytest.approx(share_in_float32, abs=0.002)
    # Without copies only weights below 3e-4 move, whose neighbours are closer than a step: 1 to 2% of those of
    # standard deviation 0.02, P(|x| < 3e-4) = 0.012.
    with pytest.warns(UserWarning, match="most steps at a small learning rate are rounded away"):
        assert share_changed(fit, **BFLOAT16[half], optimizer={"master_weights": False}) < 0.02


def test_float16_stays_finite(fit: Any) -> None:
    # The eps of 1e-8 is 0 in float16, so that a step there divides 0 by 0.
    module, trainer = fit(3, dtype="float16")
    assert {p.dtype for p in module.policy.parameters()} == {FP16}
    assert all(bool(p.isfinite().all()) for p in module.policy.parameters())
    assert bool(stepped(trainer).isfinite().all())


@pytest.mark.parametrize("half", [*BFLOAT16.values(), {"dtype": "float16"}], ids=[*BFLOAT16, "float16"])
def test_a_resumed_run_is_bit_for_bit_the_other(half: dict[str, Any], fit: Any, tmp_path: Path) -> None:
    fit(2, **half)[1].save_checkpoint(tmp_path / "two.ckpt")
    fit(4, **half, resume=tmp_path / "two.ckpt")[1].save_checkpoint(tmp_path / "resumed.ckpt")
    fit(4, **half)[1].save_checkpoint(tmp_path / "whole.ckpt")
    resumed, whole = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("resumed", "whole"))
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name
    ours, theirs = resumed["optimizer_states"][0], whole["optimizer_states"][0]
    assert {copy.dtype for copy in theirs["master_weights"]} == {torch.float32}
    for one, other in zip(ours["master_weights"], theirs["master_weights"], strict=True):
        assert torch.equal(one, other)
    for number, state in theirs["state"].items():
        assert all(torch.equal(ours["state"][number][name], value) for name, value in state.items())


def test_a_checkpoint_without_copies_starts_them_from_the_weights(fit: Any, tmp_path: Path) -> None:
    without = OptimizerSettings(master_weights=False)
    with pytest.warns(UserWarning, match="rounded away"):
        _, trainer = fit(2, dtype="bfloat16", optimizer=without)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    with pytest.warns(UserWarning, match="has no float32 copies of the weights"):
        _, resumed = fit(2, dtype="bfloat16", resume=tmp_path / "two.ckpt")
    assert torch.equal(stepped(resumed), stepped(trainer))


def test_adapters_are_stepped_in_float32(fit: Any) -> None:
    pytest.importorskip("peft")
    # Beside bfloat16 weights adapters are float32 themselves; bf16-true casts them, and they get copies.
    module, trainer = fit(1, dtype="bfloat16", lora=LoRASettings(rank=2))
    assert isinstance(trainer.optimizers[0], AdamW)
    assert {p.dtype for p in module.policy.parameters() if p.requires_grad} == {torch.float32}
    module, trainer = fit(1, precision="bf16-true", lora=LoRASettings(rank=2))
    assert {p.dtype for p in module.policy.parameters() if p.requires_grad} == {BF16}
    assert {p.dtype for group in trainer.optimizers[0].param_groups for p in group["params"]} == {torch.float32}


# ---------------------------------------------------------------- float16 AMP

PLAIN = OptimizerSettings(learning_rate=1e-3, weight_decay=0.0, algorithm="sgd", max_grad_norm=0.5)


def amp(scale: float) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


def test_gradients_are_unscaled_before_they_are_clipped(fit: Any) -> None:
    _, full = fit(1, optimizer=PLAIN)
    _, mixed = fit(1, optimizer=PLAIN, plugins=amp(2.0**12))
    norms = [float(trainer.callback_metrics["train/gradient_norm"]) for trainer in (full, mixed)]
    assert norms[0] > PLAIN.max_grad_norm
    assert norms[1] == pytest.approx(norms[0], rel=0.02)  # float16 has 11 bits
    start = stepped(fit(1, optimizer=replace(PLAIN, learning_rate=1e-30))[1])
    # Clipped to a norm of 0.5 the step has the length 1e-3 * 0.5.
    for trainer in (full, mixed):
        assert float((stepped(trainer) - start).norm()) == pytest.approx(5e-4, rel=0.01)


def test_the_scale_falls_where_gradients_overflow(fit: Any) -> None:
    plugin = amp(2.0**24)
    with pytest.warns(UserWarning, match="is skipped and no weight changed"):
        _, trainer = fit(1, optimizer=PLAIN, plugins=plugin)
    assert trainer.global_step == 1  # skipped steps do not count
    # Halved in each skipped step, down to a scale at which float16, up to 65504, holds the gradients.
    assert 2.0**14 < plugin.scaler.get_scale() < 2.0**24
    assert bool(stepped(trainer).isfinite().all())
