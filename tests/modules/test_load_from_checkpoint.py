"""`load_from_checkpoint` gives back the module of a run, from the command line or from Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM

from laser_lightning import LaSeRModule, LastTokenSelfReward, RISEModule, SupervisedModule
from laser_lightning.cli.command_line import main
from laser_lightning.data import ArithmeticSource, PromptDataModule
from laser_lightning.errors import UserError
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.training import TrainingModule
from laser_lightning.modules.verification_prompts import VerificationPrompts
from laser_lightning.policy.model import PolicySettings
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers import ExactVerifier
from laser_lightning.verifiers.settings import VerificationSettings

MODEL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
RISE = """
model:
  class_path: laser_lightning.RISEModule
  init_args:
    self_reward: {init_args: {loss_weight: 0.0}}
    verification_prompts: {template: "{problem}={response}", max_response_tokens: 2}
"""


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(checkpoint, weights_only=True)["state_dict"])  # plain values only: nothing else loads


def assert_holds(module: TrainingModule, checkpoint: Path) -> None:
    ours, theirs = module.state_dict(), weights_of(checkpoint)
    assert theirs
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def run_command_line(directory: Path, *options: str) -> Path:
    """The last checkpoint of two steps on the command line."""
    steps = ["--trainer.max_steps=2", "--checkpoint.every_n_train_steps=2", "--model.optimizer.warmup_steps=1"]
    assert main(["fit", *options, *steps, f"--run_dir={directory}", "--export=null"]) == 0
    return directory / "checkpoints/step=2.ckpt"


def test_a_laser_run_of_the_command_line(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tiny_run)
    checkpoint = run_command_line(tmp_path / "run", f"--config={tiny_run / 'run.yaml'}")
    module = LaSeRModule.load_from_checkpoint(checkpoint)
    assert type(module) is LaSeRModule
    assert_holds(module, checkpoint)
    assert module.policy_settings == PolicySettings("embedded", random_init=True, config_overrides=MODEL)
    assert isinstance(module.self_reward, LastTokenSelfReward)
    assert (module.group_size, module.self_reward.beta, module.update.mini_batches) == (4, 0.5, 2)
    assert type(module.verifier).__name__ == "LengthVerifier"
    # the constant that was calibrated, and not NaN, as "calibrate" alone would leave it
    assert not module.self_reward.needs_calibration
    assert module.self_reward.reference_constant == weights_of(checkpoint)["self_reward.reference_constant"]
    assert module.optimizer_settings == OptimizerSettings(learning_rate=1e-2, warmup_steps=1, schedule="linear")


def test_a_rise_run_of_the_command_line(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tiny_run)
    (tmp_path / "rise.yaml").write_text(RISE)
    checkpoint = run_command_line(
        tmp_path / "run", f"--config={tiny_run / 'run.yaml'}", f"--config={tmp_path / 'rise.yaml'}"
    )
    module = RISEModule.load_from_checkpoint(checkpoint)
    assert_holds(module, checkpoint)
    assert module.verification_prompts == VerificationPrompts("{problem}={response}", max_response_tokens=2)
    assert module.group_size == 4
    with pytest.raises(UserError, match=r"is of a RISEModule: RISEModule\.load_from_checkpoint loads it"):
        LaSeRModule.load_from_checkpoint(checkpoint)


def test_a_supervised_run_of_the_command_line(tmp_path: Path) -> None:
    options = [
        "--config=warm_start",
        f"--model.policy.config_overrides={MODEL}",
        "--data.train.init_args.size=16",
        "--data.prompts_per_step=8",
        "--data.val=null",
        "--checkpoint.filename={step}",
        "--trainer.enable_progress_bar=false",
    ]
    checkpoint = run_command_line(tmp_path / "run", *options)
    module = SupervisedModule.load_from_checkpoint(checkpoint)
    assert_holds(module, checkpoint)
    assert module.policy_settings == PolicySettings("embedded", random_init=True, config_overrides=MODEL)
    assert (module.optimizer_settings.learning_rate, module.optimizer_settings.warmup_steps) == (2e-3, 1)


class OddLengths(ExactVerifier):
    """Rewards every second length, so that rewards of a random model vary."""

    def reward(self, response: str, gold: str) -> float:
        return float(len(response) % 2)


class Run(NamedTuple):
    """A run of two steps in Python."""

    module: LaSeRModule
    trainer: Trainer
    data: PromptDataModule


@pytest.fixture
def python_run(tmp_path: Path, policy_dir: Path) -> Callable[..., tuple[Run, Path]]:
    """``python_run(**arguments)`` is a run of two steps, and its last checkpoint."""

    def run(**arguments: Any) -> tuple[Run, Path]:
        defaults: dict[str, Any] = {
            "policy": PolicySettings(str(policy_dir)),
            "self_reward": LastTokenSelfReward("<|reward|>", reference=-20.0),
            "verifier": OddLengths("(.*)"),
            "group_size": 4,
            "sampling": Sampling(max_response_tokens=12),
            "optimizer": OptimizerSettings(learning_rate=1e-2),
            "verification": VerificationSettings(workers=0),
        }
        data = PromptDataModule(ArithmeticSource(size=4), {"sums": ArithmeticSource("val", size=2)}, prompts_per_step=2)
        saver = ModelCheckpoint(tmp_path / "checkpoints", "{step}", every_n_train_steps=2)
        made = Run(LaSeRModule(**(defaults | arguments)), trainer(tmp_path, 2, saver), data)
        made.trainer.fit(made.module, datamodule=data)
        return made, tmp_path / "checkpoints/step=2.ckpt"

    return run


def trainer(directory: Path, max_steps: int, *callbacks: Callback) -> Trainer:
    return Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        default_root_dir=directory,
        num_sanity_val_steps=0,
    )


def test_a_run_of_python(python_run: Callable[..., Any], policy_dir: Path) -> None:
    run, checkpoint = python_run()
    module = LaSeRModule.load_from_checkpoint(str(checkpoint))
    assert_holds(module, checkpoint)
    start = AutoModelForCausalLM.from_pretrained(policy_dir).state_dict()
    assert not torch.equal(module.policy.lm.lm_head.weight, start["lm_head.weight"])  # the trained weights
    assert isinstance(module.verifier, OddLengths)
    assert module.plain_arguments == run.module.plain_arguments

    # It solves as the run's own module does, and counts its own steps.
    run.trainer.validate(run.module, datamodule=run.data, verbose=False)
    run.trainer.validate(module, datamodule=run.data, verbose=False)
    assert module.last_rollout.texts == run.module.last_rollout.texts
    assert torch.equal(module.last_rollout.self_rewards, run.module.last_rollout.self_rewards)


def test_arguments_given_again_take_the_place_of_the_runs(python_run: Callable[..., Any]) -> None:
    run, checkpoint = python_run()
    other = ExactVerifier("(.*)")
    module = LaSeRModule.load_from_checkpoint(checkpoint, verifier=other, group_size=6)
    assert module.verifier is other
    assert (module.group_size, module.sampling) == (6, run.module.sampling)
    with pytest.raises(TypeError, match="groups_size"):
        LaSeRModule.load_from_checkpoint(checkpoint, groups_size=6)


def test_what_a_checkpoint_cannot_hold_is_asked_for(python_run: Callable[..., Any]) -> None:
    class Local(ExactVerifier):
        pass

    _, checkpoint = python_run(verifier=Local("#(.*)"))
    with pytest.raises(UserError, match=r"lacks verifier \(Local, a class within a function\).*verifier=\.\.\."):
        LaSeRModule.load_from_checkpoint(checkpoint)
    assert_holds(LaSeRModule.load_from_checkpoint(checkpoint, verifier=Local("#(.*)")), checkpoint)


def test_a_checkpoint_without_arguments(python_run: Callable[..., Any], tmp_path: Path) -> None:
    run, checkpoint = python_run()
    saved = torch.load(checkpoint, weights_only=True)
    del saved["laser_arguments"]
    torch.save(saved, tmp_path / "old.ckpt")
    with pytest.raises(UserError, match="does not hold the arguments of its module"):
        LaSeRModule.load_from_checkpoint(tmp_path / "old.ckpt")
    settings = {name: getattr(run.module, name) for name in ("self_reward", "verifier")}
    policy = run.module.policy_settings
    assert_holds(LaSeRModule.load_from_checkpoint(tmp_path / "old.ckpt", policy=policy, **settings), checkpoint)


def test_a_later_fit_is_a_run_of_its_own(python_run: Callable[..., Any], tmp_path: Path) -> None:
    run, checkpoint = python_run()
    module = LaSeRModule.load_from_checkpoint(checkpoint)
    later = trainer(tmp_path, 1)
    later.fit(module, datamodule=run.data)
    assert later.global_step == 1
    weights = weights_of(checkpoint)
    assert any(not torch.equal(value, weights[name]) for name, value in module.state_dict().items())
