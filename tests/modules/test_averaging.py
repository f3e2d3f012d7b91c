"""Lightning's averages of weights: evaluated, saved, and resumed bit for bit, beside a frozen reference or LoRA."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from torch.optim.swa_utils import get_ema_avg_fn

from laser_lightning import LaSeRModule, LastTokenSelfReward, PromptDataModule
from laser_lightning.callbacks import ReferenceConstantCalibration, RunCheckpoint
from laser_lightning.data import ArithmeticSource
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.averaging import ExactWhereEqual
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.policy.lora import LoRASettings
from laser_lightning.policy.model import Policy, PolicySettings
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.verifiers import ExactVerifier
from laser_lightning.verifiers.settings import VerificationSettings


def test_the_average_of_equals_is_exact() -> None:
    frozen = torch.tensor([0.1, 0.7, -1.3, 3.0])
    plain, exact = get_ema_avg_fn(0.9), ExactWhereEqual(get_ema_avg_fn(0.9))
    assert not torch.equal(plain(frozen, frozen, 1), frozen)  # 0.9 x + 0.1 x is not x
    assert torch.equal(exact(frozen, frozen, 1), frozen)
    # 0.9 * 1 + 0.1 * 2 = 1.1, and 3 stays.
    mixed = exact(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0]), 1)
    assert mixed.tolist() == pytest.approx([1.1, 3.0])


class CopyingEngine(TransformersEngine):
    """Remembers the first weight of what it would have a copy of, and of what it is asked to decode with."""

    def __init__(self) -> None:
        super().__init__()
        self.stale, self.decoded_stale = True, False

    def weights_changed(self) -> None:
        self.stale = True

    def generate(self, policy: Policy, *args: Any, **options: Any) -> Rollouts:
        first = policy.lm.get_input_embeddings().weight.flatten()[:64].clone()
        if self.stale:
            self.copy, self.stale = first, False
        self.decoded_stale |= not torch.equal(first, self.copy)
        return super().generate(policy, *args, **options)


def fit(
    tmp_path: Path, policy: PolicySettings, steps: int, callback: WeightAveraging, resume: Path | None = None
) -> LaSeRModule:
    torch.manual_seed(0)
    module = LaSeRModule(
        policy=policy,
        self_reward=LastTokenSelfReward("<|reward|>", beta=0.5),
        verifier=ExactVerifier(),
        group_size=2,
        sampling=Sampling(max_response_tokens=12),
        engine=CopyingEngine(),
        update=UpdateSettings(kl_coef=0.1, entropy_coef=0.1),
        optimizer=OptimizerSettings(learning_rate=1e-2),
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(samples=1),
        seed=0,
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        callbacks=[
            callback,
            ReferenceConstantCalibration(prompts=8, group_size=8, max_emission_rate=1.0),
            ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=2),
            RunCheckpoint(dirpath=tmp_path / "end", every_n_train_steps=100),  # saves the last step, at the end
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    source = ArithmeticSource("val", size=2)
    data = PromptDataModule(train=ArithmeticSource("train", size=64), val={"sums": source}, prompts_per_step=2)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=False)
    assert not module.engine.decoded_stale  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("callback", "lora"),
    [(EMAWeightAveraging, None), (EMAWeightAveraging, LoRASettings(rank=2)), (WeightAveraging, None)],
)
def test_a_resumed_run_is_bit_for_bit_the_other(
    tmp_path: Path, policy_dir: Path, callback: type[WeightAveraging], lora: LoRASettings | None
) -> None:
    options: dict[str, Any] = {"decay": 0.9} if callback is EMAWeightAveraging else {}
    policy = PolicySettings(path=str(policy_dir), lora=lora)
    for name in ("whole", "resumed"):
        (tmp_path / name).mkdir()
    whole = fit(tmp_path / "whole", policy, 4, callback(**options))
    fit(tmp_path / "resumed", policy, 2, callback(**options))
    resumed = fit(tmp_path / "resumed", policy, 4, callback(**options), tmp_path / "resumed/step=2.ckpt")
    # The second was saved behind the end of the run, when the average is in the place of the weights.
    names = ("whole/step=4.ckpt", "whole/end/step=4.ckpt", "resumed/step=4.ckpt")
    first, *others = (torch.load(tmp_path / name, weights_only=False) for name in names)
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert not any(name.startswith("reference.") for name in first[key])
        for other in others:
            assert first[key].keys() == other[key].keys()
            assert all(torch.equal(value, other[key][name]) for name, value in first[key].items()), key
    # The frozen reference is what it was, in the run as in the average.
    for module in (whole, resumed):
        if lora is None:
            fresh = dict(LaSeRModule.load_reference(module).named_parameters())
            assert all(torch.equal(value, fresh[name]) for name, value in module.reference.named_parameters())
