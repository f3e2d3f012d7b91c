"""LoRA: the adapters' gradients, the model without them, merging, and a run with checkpoints and exports."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from laser_lightning.cli.command_line import main
from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.errors import UserError
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.supervised import SupervisedModule
from laser_lightning.objective.objective import UpdateSettings
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.policy.lora import LoRASettings, adapters_off, merged_weights, save_adapter
from laser_lightning.policy.model import EMBEDDED, AdaptersOff, Policy, PolicyOutputs, PolicySettings, load_tokenizer
from laser_lightning.records.batching import Rollouts, micro_batches
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.verifiers import ExactVerifier
from laser_lightning.verifiers.settings import VerificationSettings

MakePolicy = Callable[..., Policy]
MakeRollouts = Callable[..., Rollouts]
Z = 3  # <|reward|>


@pytest.fixture
def make_adapted(make_policy: MakePolicy) -> MakePolicy:
    """``make_adapted(*path, rank=4, alpha=6.0, **settings)``: a policy whose adapters are the same in every call."""

    def make(*path: Path, rank: int = 4, alpha: float = 6.0, use_rslora: bool = False, **settings: Any) -> Policy:
        policy = make_policy(*path, lora=LoRASettings(rank=rank, alpha=alpha, use_rslora=use_rslora), **settings)
        generator = torch.Generator().manual_seed(5)
        for name, parameter in policy.lm.named_parameters():
            if ".lora_" in name:
                parameter.data = 0.15 * torch.randn(parameter.shape, generator=generator)
        return policy

    return make


def outputs_of(policy: Policy | AdaptersOff, rollouts: Rollouts) -> PolicyOutputs:
    (batch,) = micro_batches(rollouts, torch.arange(len(rollouts)), 10_000, 0)
    return policy(batch, (Z,), 0.8, entropy=True)


def loss_of(outputs: PolicyOutputs) -> Tensor:
    """A loss in which every output has a weight of its own."""
    generator = torch.Generator().manual_seed(0)
    return sum((value * torch.randn(value.shape, generator=generator)).sum() for value in outputs if value is not None)  # type: ignore


def same(ours: PolicyOutputs, theirs: PolicyOutputs) -> bool:
    assert ours.reading is theirs.reading is None
    return all(torch.equal(one, other) for one, other in zip(ours[:-1], theirs[:-1], strict=True))


def plain_copy(policy: Policy, path: Path, make_policy: MakePolicy) -> Policy:
    """A policy without LoRA that has the merged weights."""
    plain = make_policy(path)
    plain.lm.load_state_dict(dict(merged_weights(policy.lm, policy.lm.state_dict())))
    return plain


# ------------------------------------------------------------------- outputs


def test_without_its_adapters_the_policy_is_the_loaded_model_exactly(
    family: tuple[Path, float], make_policy: MakePolicy, make_adapted: MakePolicy, make_rollouts: MakeRollouts
) -> None:
    rollouts = make_rollouts()
    plain, policy = make_policy(family[0]), make_adapted(family[0])
    reference = AdaptersOff(policy)
    expected, ours = outputs_of(plain, rollouts), outputs_of(policy, rollouts)
    assert same(outputs_of(reference, rollouts), expected)
    assert (ours.log_probs - expected.log_probs).abs().max() > 0.1
    trained = [name for name, parameter in policy.lm.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)
    with pytest.raises(ZeroDivisionError), adapters_off(policy.lm):
        1 / 0  # noqa: B018
    assert [name for name, parameter in policy.lm.named_parameters() if parameter.requires_grad] == trained
    assert same(outputs_of(policy, rollouts), ours)

    # Fresh adapters change nothing either.
    assert same(outputs_of(make_policy(family[0], lora=LoRASettings()), rollouts), expected)


def test_the_engine_samples_from_the_policy_with_its_adapters(make_adapted: MakePolicy) -> None:
    policy = make_adapted()
    prompts = [[30, 31, 32], [40, 41]]
    generator = torch.Generator().manual_seed(0)
    rollouts = TransformersEngine().generate(policy, prompts, 3, Sampling(8, temperature=0.8), (Z,), generator)
    with torch.no_grad():
        (batch,) = micro_batches(rollouts, torch.arange(6), 10_000, policy.pad_token_id)
        outputs = policy(batch, (Z,), 0.8)
    torch.testing.assert_close(rollouts.sampling_log_probs[batch.rows], outputs.log_probs, rtol=0, atol=1e-5)


def test_a_module_loads_no_second_model_for_its_reference(policy_dir: Path) -> None:
    settings = PolicySettings(path=str(policy_dir), lora=LoRASettings(rank=2))
    module = LaSeRModule(
        settings,
        LastTokenSelfReward("<|reward|>", reference=-20.0),
        ExactVerifier("(.+)"),
        update=UpdateSettings(kl_coef=0.1),
        verification=VerificationSettings(workers=0),
    )
    module.configure_model()
    assert isinstance(module.reference, AdaptersOff)
    assert module.reference.policy is module.policy
    assert not any("reference." in name for name in module.state_dict())
    # Two layers of linear ones: in + out = 64, 48, 48, 64 in the attention, and three of 96 in the MLP; rank 2.
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == 2 * 2 * (64 + 48 + 48 + 64 + 3 * 96)


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_gradients_are_those_of_the_merged_weight(
    make_policy: MakePolicy,
    make_adapted: MakePolicy,
    make_rollouts: MakeRollouts,
    policy_dir: Path,
    gradient_checkpointing: bool,
) -> None:
    rollouts = make_rollouts()
    policy = make_adapted(gradient_checkpointing=gradient_checkpointing)
    plain = plain_copy(policy, policy_dir, make_policy)
    loss_of(outputs_of(policy, rollouts)).backward()
    loss_of(outputs_of(plain, rollouts)).backward()
    ours, theirs = dict(policy.lm.named_parameters()), dict(plain.lm.named_parameters())
    assert sum(".lora_A." in name for name in ours) == 2 * 7  # layers times their linear ones
    for name, parameter in ours.items():
        if ".lora_" not in name:
            assert parameter.grad is None
        if ".lora_A." not in name:
            continue
        layer = name.removesuffix(".lora_A.default.weight")
        other = ours[f"{layer}.lora_B.default.weight"]
        # W + s B A with s = alpha / rank = 6 / 4: dA = s B^T dW, dB = s dW A^T
        whole = theirs[f"{layer}.weight"].grad
        for found, expected in (
            (parameter.grad, 1.5 * other.detach().T @ whole),
            (other.grad, 1.5 * whole @ parameter.detach().T),
        ):
            assert (found - expected).norm() < 1e-4 * expected.norm(), layer


def test_adapters_are_float32_beside_bfloat16(make_adapted: MakePolicy, make_rollouts: MakeRollouts) -> None:
    policy = make_adapted(dtype="bfloat16")
    for name, parameter in policy.lm.named_parameters():
        assert parameter.dtype == (torch.float32 if ".lora_" in name else torch.bfloat16), name
    loss_of(outputs_of(policy, make_rollouts())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in policy.parameters() if p.requires_grad)
    weights = policy.lm.state_dict()
    assert {value.dtype for _, value in merged_weights(policy.lm, weights)} == {torch.bfloat16}


# -------------------------------------------------------------------- export


def test_weights_merged_within_a_step_in_half_precision_are_not_rounded(make_adapted: MakePolicy) -> None:
    lm = make_adapted().lm
    plain = dict(merged_weights(lm, lm.state_dict()))
    with torch.autocast("cpu", torch.bfloat16):
        merged = dict(merged_weights(lm, lm.state_dict()))
    assert all(torch.equal(merged[name], plain[name]) for name in plain)


def test_merged_weights_and_adapter_are_the_model(
    tmp_path: Path,
    family: tuple[Path, float],
    make_policy: MakePolicy,
    make_adapted: MakePolicy,
    make_rollouts: MakeRollouts,
) -> None:
    rollouts = make_rollouts()
    policy = make_adapted(family[0])
    before = {name: value.clone() for name, value in policy.lm.state_dict().items()}
    merged = dict(merged_weights(policy.lm, policy.lm.state_dict()))
    save_adapter(policy.lm, policy.lm.state_dict(), tmp_path)
    after = policy.lm.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)

    expected = outputs_of(policy, rollouts)
    for ours, theirs in zip(outputs_of(plain_copy(policy, family[0], make_policy), rollouts), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)

    # peft's own merging gives the same weights, bit for bit.
    loaded = PeftModel.from_pretrained(make_policy(family[0]).lm, tmp_path)
    theirs = loaded.merge_and_unload().state_dict()
    assert theirs.keys() == merged.keys()
    assert all(torch.equal(theirs[name], merged[name]) for name in merged)


def test_rslora_scales_by_the_root_of_the_rank(
    make_adapted: MakePolicy, make_policy: MakePolicy, make_rollouts: MakeRollouts, policy_dir: Path
) -> None:
    policy = make_adapted(use_rslora=True)
    merged = dict(merged_weights(policy.lm, state := policy.lm.state_dict()))
    layer = "model.layers.1.mlp.up_proj"
    inner, outer = (state[f"{layer}.lora_{half}.default.weight"] for half in "AB")
    expected = state[f"{layer}.base_layer.weight"] + 3.0 * outer @ inner  # alpha / sqrt(rank) = 6 / 2
    torch.testing.assert_close(merged[f"{layer}.weight"], expected)
    ours = outputs_of(plain_copy(policy, policy_dir, make_policy), make_rollouts())
    torch.testing.assert_close(ours.log_probs, outputs_of(policy, make_rollouts()).log_probs, rtol=0, atol=1e-4)


def test_a_model_without_adapters_yields_its_weights(make_policy: MakePolicy) -> None:
    lm = make_policy().lm
    state = lm.state_dict()
    merged = dict(merged_weights(lm, state))
    assert merged.keys() == state.keys()
    assert all(merged[name] is state[name] for name in state)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rank": 0}, "policy.lora.rank is 0"),
        ({"alpha": 0.0}, "policy.lora.alpha is 0.0"),
        ({"target_modules": []}, "policy.lora.target_modules is empty"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        LoRASettings(**values)


@pytest.mark.parametrize("wrong", ["q_prj", "self_attn", "embed_tokens", "lm_head", "input_layernorm"])
def test_names_of_other_layers_are_refused(make_policy: MakePolicy, wrong: str) -> None:
    with pytest.raises(UserError, match=f"'{wrong}'.*choose from down_proj, gate_proj, k_proj"):
        make_policy(lora=LoRASettings(target_modules=["q_proj", wrong]))


def test_only_the_named_layers_are_adapted(make_policy: MakePolicy) -> None:
    policy = make_policy(lora=LoRASettings(target_modules=["q_proj", "layers.1.mlp.up_proj"]))
    adapted = {name.split(".lora_")[0] for name, p in policy.lm.named_parameters() if p.requires_grad}
    assert adapted == {f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)} | {"model.layers.1.mlp.up_proj"}


def test_a_missing_peft_is_named(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'laser-lightning\[lora\]'"):
        make_policy(lora=LoRASettings())


def test_random_weights_are_not_adapted() -> None:
    settings = PolicySettings(EMBEDDED, random_init=True, lora=LoRASettings())
    with pytest.raises(UserError, match=r"policy\.lora adapts pretrained weights, and policy\.random_init has none"):
        Policy(settings, load_tokenizer(settings))


def test_a_quantised_model_is_refused(make_policy: MakePolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make_policy().lm
    lm.config.quantization_config = {"bits": 4}
    monkeypatch.setattr("laser_lightning.policy.model.load_weights", lambda settings: lm)
    with pytest.raises(UserError, match="quantised model"):
        make_policy(lora=LoRASettings())


# --------------------------------------------------------------------- a run

CONFIG = r"""
seed_everything: 0
torch_threads: 1
model:
  init_args:
    policy: {path: embedded, lora: {rank: 4, alpha: 8.0}}
    self_reward:
      class_path: laser_lightning.LastTokenSelfReward
      init_args: {token: <|reward|>, beta: 0.5, loss_weight: 0.5, reference: exact}
    verifier: {class_path: laser_lightning.verifiers.ExactVerifier, init_args: {pattern: '#(\d+)$'}}
    group_size: 4
    sampling: {max_response_tokens: 32}
    optimizer: {learning_rate: 1.0e-2}
    update: {kl_coef: 0.1}
    verification: {workers: 0}
    evaluation: {at_start: false, at_end: false}
data:
  init_args:
    train: {class_path: laser_lightning.data.ArithmeticSource, init_args: {split: train, size: 20}}
    template: {chat: true}
    prompts_per_step: 4
trainer: {max_steps: 4, accelerator: cpu, devices: 1, enable_progress_bar: false, logger: null}
checkpoint:
  class_path: lightning.pytorch.callbacks.ModelCheckpoint
  init_args: {every_n_train_steps: 2, save_top_k: -1, filename: "{step}"}
export: {class_path: laser_lightning.callbacks.HuggingFaceExport}
"""


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.slow
def test_a_run_saves_adapters_resumes_bit_for_bit_and_exports(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make_rollouts: MakeRollouts,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)
    assert main(["fit", "--config", "run.yaml", "--run_dir", "whole"]) == 0
    saved = torch.load("whole/checkpoints/step=4.ckpt", weights_only=True)
    adapters = {name: value for name, value in saved["state_dict"].items() if ".lora_" in name}
    assert saved["state_dict"].keys() - adapters.keys() == {"self_reward.reference_constant"}
    assert len(adapters) == 5 * 7 * 2  # layers, their linear ones, A and B
    early = torch.load("whole/checkpoints/step=2.ckpt", weights_only=True)["state_dict"]
    assert not any(torch.equal(early[name], value) for name, value in adapters.items())

    middle = "whole/checkpoints/step=2.ckpt"
    assert main(["fit", "--config", "run.yaml", "--run_dir", "resumed", "--ckpt_path", middle]) == 0
    resumed = torch.load("resumed/checkpoints/step=4.ckpt", weights_only=True)
    assert resumed["state_dict"].keys() == saved["state_dict"].keys()
    assert all(torch.equal(resumed["state_dict"][name], value) for name, value in adapters.items())
    for ours, theirs in zip(resumed["optimizer_states"], saved["optimizer_states"], strict=True):
        for number, state in theirs["state"].items():
            assert torch.equal(ours["state"][number]["exp_avg"], state["exp_avg"])

    # Another rank is another model.
    other = ["--model.policy.lora.rank", "2", "--run_dir", "other", "--ckpt_path", middle]
    other += ["--allow_changes", "model.policy.lora"]
    assert main(["fit", "--config", "run.yaml", *other]) == 2
    assert "its lora is {'rank': 4, 'alpha': 8.0" in capsys.readouterr().err

    # The run's merged export is that of the checkpoint; the adapter's weights are the trained ones.
    assert main(["export", "whole/checkpoints/step=4.ckpt", "merged"]) == 0
    assert files(Path("merged")) == files(Path("whole/export/last"))
    assert main(["export", "whole/checkpoints/step=4.ckpt", "adapter", "--adapter"]) == 0
    assert main(["fit", "--config", "run.yaml", "--run_dir", "again", "--export.adapter", "true"]) == 0
    assert files(Path("adapter")) == files(Path("again/export/last"))
    settings = PolicySettings(EMBEDDED, lora=LoRASettings(rank=4, alpha=8.0))
    policy = Policy(settings, load_tokenizer(settings))
    policy.load_state_dict({name.removeprefix("policy."): value for name, value in adapters.items()}, strict=False)
    rollouts = make_rollouts()
    expected = outputs_of(policy, rollouts)
    for directory in ("merged", "adapter"):
        policy.lm = AutoModelForCausalLM.from_pretrained(directory)
        assert policy.lm.generation_config.eos_token_id == [1]
        for ours, theirs in zip(outputs_of(policy, rollouts), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)

    # Without LoRA there is no adapter.
    plain = ["--config", "run.yaml", "--config", "plain.yaml"]
    Path("plain.yaml").write_text("model: {policy: {lora: null}}")
    capsys.readouterr()
    assert main(["fit", *plain, "--run_dir", "plain", "--export.adapter", "true"]) == 2
    assert "trained without LoRA (policy.lora), so there is no adapter" in capsys.readouterr().err
    assert main(["export", middle, "none", "--adapter", *plain]) == 2
    assert "trained without LoRA (policy.lora), so there is no adapter" in capsys.readouterr().err


def test_the_supervised_stage_takes_adapters(tmp_path: Path, policy_dir: Path) -> None:
    def fit(steps: int, checkpoint: Path | None = None) -> dict[str, Tensor]:
        settings = PolicySettings(path=str(policy_dir), lora=LoRASettings(rank=2))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = SupervisedModule(settings, optimizer=OptimizerSettings(learning_rate=1e-2))
            trainer = lightning.Trainer(
                accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, use_distributed_sampler=False, default_root_dir=tmp_path,
            )  # fmt: skip
            data = PromptDataModule(train=ArithmeticSource("train", size=24), prompts_per_step=8)
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint)
            trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return module.state_dict()

    half, resumed, whole = fit(1), fit(2, tmp_path / "1.ckpt"), fit(2)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    changed = {name for name, value in whole.items() if not torch.equal(half[name], value)}
    assert changed == {name for name in whole if ".lora_" in name}
