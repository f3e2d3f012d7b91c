"""Short real runs on problems whose answers, responses and scores are all written down here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from laser_lightning.data import PromptDataModule
from laser_lightning.data.sources import ProblemSource
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.modules.training import TrainingModule
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.policy.character_tokenizer import REWARD_TOKEN, character_tokenizer
from laser_lightning.policy.model import Policy, PolicySettings
from laser_lightning.records.batching import Rollouts, pad_rows
from laser_lightning.rollout import RolloutEngine, Sampling
from laser_lightning.verifiers import ExactVerifier
from laser_lightning.verifiers.settings import VerificationSettings

PROMPTS, GROUP = 2, 4

# With c_ref = -20 and beta = 0.1 the self-rewards are 1.0, 0.0, 0.8 and, of the truncated one, 0.
SOLUTIONS = (("a#2", -10.0), ("bc#3", -20.0), ("#2", -12.0), ("dddd", None))


class ScriptedEngine(RolloutEngine):
    """Gives each prompt the same solutions: (text, log-prob of the reward token), or None for a truncated one."""

    def __init__(self, solutions: Sequence[tuple[str, float | None]] = SOLUTIONS) -> None:
        self.solutions = solutions

    def generate(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        group_size: int,
        sampling: Sampling,
        reward_token_ids: Sequence[int],
        generator: torch.Generator,
    ) -> Rollouts:
        tokenizer = character_tokenizer()
        rows = [self.solutions[i % len(self.solutions)] for i in range(len(prompts) * group_size)]
        ids = [tokenizer.encode(text) + [tokenizer.eos_token_id] * (score is not None) for text, score in rows]
        response_ids, lengths = pad_rows(ids, 0)
        return Rollouts(
            *pad_rows(prompts, 0),
            response_ids,
            lengths,
            torch.tensor([score is not None for _, score in rows]),
            torch.full(response_ids.shape, -4.0),
            torch.tensor([[torch.nan if score is None else score] for _, score in rows]),
        )


class Learning(Callback):
    """Decides how many of the scripted solutions to a problem are right, evaluation by evaluation.

    Args:
        right: of each step at which there is an evaluation, how many of GROUP solutions.
    """

    def __init__(self, right: dict[int, int]) -> None:
        self.right = right

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        right = self.right[trainer.global_step]
        texts = ["#2"] * right + ["#3"] * (GROUP - right)
        pl_module.engine = ScriptedEngine([(text, -10.0) for text in texts])  # type: ignore[assignment]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.engine = ScriptedEngine()  # type: ignore[assignment]


class Problems(ProblemSource):
    """Problems with the answer 2, in turn of the kinds "sum" and "product"."""

    def __init__(self, count: int) -> None:
        self.count = count

    def load(self) -> Dataset:
        rows = [
            {"problem": f"{i}?", "answer": "2", "kind": ("sum", "product")[i % 2], "solution": "#2"}
            for i in range(self.count)
        ]
        return Dataset.from_list(rows)


@dataclass
class Run:
    """A trainer, a module and its data."""

    trainer: Trainer
    module: TrainingModule
    data: PromptDataModule

    def fit(self, ckpt_path: Path | None = None) -> None:
        self.trainer.fit(self.module, datamodule=self.data, ckpt_path=ckpt_path)

    def validate(self, ckpt_path: Path | None = None) -> None:
        self.trainer.validate(self.module, datamodule=self.data, ckpt_path=ckpt_path, verbose=False)

    def test(self, ckpt_path: Path | None = None) -> None:
        self.trainer.test(self.module, datamodule=self.data, ckpt_path=ckpt_path, verbose=False)

    def predict(self) -> None:
        self.trainer.predict(self.module, datamodule=self.data, return_predictions=False)


@pytest.fixture
def scripted_engine() -> type[ScriptedEngine]:
    """The class of engines whose solutions are given."""
    return ScriptedEngine


@pytest.fixture
def learning() -> type[Learning]:
    """The class of callbacks that script how good each evaluation is."""
    return Learning


@pytest.fixture
def make_module(policy_dir: Path) -> Callable[..., LaSeRModule]:
    """``make_module(**options)`` makes a LaSeRModule on a tiny model; by default its solutions are scripted."""

    def make(**options: Any) -> LaSeRModule:
        defaults = {
            "policy": PolicySettings(path=str(policy_dir)),
            "self_reward": LastTokenSelfReward(REWARD_TOKEN, beta=0.1, reference=-20.0),
            "verifier": ExactVerifier(r"#(\d+)$"),
            "group_size": GROUP,
            "sampling": Sampling(max_response_tokens=8),
            "engine": ScriptedEngine(),
            "optimizer": OptimizerSettings(learning_rate=1e-3),
            "verification": VerificationSettings(workers=0),
            "evaluation": EvaluationSettings(samples=GROUP),
        }
        return LaSeRModule(**(defaults | options))  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_run(tmp_path: Path, make_module: Callable[..., LaSeRModule]) -> Callable[..., Run]:
    """``make_run(*callbacks, ...)`` makes a run with PROMPTS prompts of GROUP solutions per step.

    Its directory is ``tmp_path / directory``. The evaluation set is "sums", of 3 problems, in each stage.
    """

    def make(
        *callbacks: Callback,
        directory: str = "run",
        max_steps: int = 2,
        val_check_interval: int = 1,
        tensorboard: bool = False,
        other_loggers: Sequence[Logger] = (),
        module: TrainingModule | None = None,
        evaluation_problems: int = 3,
        trainer_options: dict[str, Any] | None = None,
        **module_options: Any,
    ) -> Run:
        place: dict[str, Any] = {"save_dir": tmp_path, "name": "", "version": directory}
        loggers: list[Logger] = [CSVLogger(**place)]
        loggers += [TensorBoardLogger(**place)] if tensorboard else []
        loggers += other_loggers
        options: dict[str, Any] = {
            "max_steps": max_steps,
            "max_epochs": -1,
            "val_check_interval": val_check_interval,
            "check_val_every_n_epoch": None,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            "devices": 1,
            "enable_checkpointing": any(hasattr(callback, "save_top_k") for callback in callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
        }
        sets: dict[str, ProblemSource] = {"sums": Problems(evaluation_problems)}
        return Run(
            Trainer(callbacks=list(callbacks), logger=loggers, **(options | (trainer_options or {}))),
            make_module(**module_options) if module is None else module,
            PromptDataModule(
                Problems(8), val=sets, test=sets, predict=sets, prompts_per_step=PROMPTS, eval_prompts_per_batch=2
            ),
        )

    return make
