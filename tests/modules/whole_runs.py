"""What tests that train a whole module for a step or two set up alike."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from transformers import PreTrainedTokenizerBase

from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.policy.model import EMBEDDED, PolicySettings
from laser_lightning.records.batching import Rollouts, pad_rows
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers import Verifier
from laser_lightning.verifiers.settings import VerificationSettings

EOS = 1
TINY = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2}
CUT = "~"  # begins a response that reached the length limit

ModuleT = TypeVar("ModuleT", bound=LaSeRModule)


def tiny_policy() -> PolicySettings:
    """The embedded tokenizer with a random model of one layer."""
    return PolicySettings(EMBEDDED, random_init=True, config_overrides={**TINY, "num_hidden_layers": 1})


def quiet_trainer(directory: Path, steps: int, **options: Any) -> lightning.Trainer:
    """A trainer of one process that writes and prints nothing by itself."""
    settings: dict[str, Any] = {
        "max_steps": steps,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "default_root_dir": directory,
    }
    return lightning.Trainer(**settings | options)


def saving_trainer(
    directory: Path, steps: int, callbacks: Sequence[Callback] = (), **options: Any
) -> lightning.Trainer:
    """The same with a checkpoint behind every step, ``<directory>/step=<n>.ckpt``."""
    saver = ModelCheckpoint(directory, "{step}", every_n_train_steps=1, save_top_k=-1)
    return quiet_trainer(directory, steps, enable_checkpointing=True, callbacks=[saver, *callbacks], **options)


def tiny_module(kind: type[ModuleT] = LaSeRModule, **options: Any) -> ModuleT:  # type: ignore[assignment]
    """A module of a kind, with a random model of one layer that is trained on groups of 4 without a self-reward.

    Args:
        kind: class of the module.
        options: its arguments that are to be others.
    """
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "policy": tiny_policy(),
        "self_reward": LastTokenSelfReward("<|reward|>", beta=0.1, loss_weight=0.0, reference=-20.0),
        "verifier": OddVerifier(),
        "group_size": 4,
        "sampling": Sampling(max_response_tokens=24),
        "verification": VerificationSettings(workers=0),
        "evaluation": EvaluationSettings(samples=2),
        "optimizer": OptimizerSettings(learning_rate=1e-2, algorithm="sgd", max_grad_norm=None),
    }
    return kind(**settings | options)


def written(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], texts: Sequence[str]) -> Rollouts:
    """What an engine returns that wrote these responses; all but those that begin with ``CUT`` end by an ``<eos>``."""
    finished = torch.tensor([not text.startswith(CUT) for text in texts], dtype=torch.bool)
    rows = [tokenizer.encode(text) + [EOS] * (not text.startswith(CUT)) for text in texts]
    prompt_ids, prompt_lengths = pad_rows(prompts, 0)
    response_ids, response_lengths = pad_rows(rows, 0)
    return Rollouts(
        prompt_ids=prompt_ids,
        prompt_lengths=prompt_lengths,
        response_ids=response_ids,
        response_lengths=response_lengths,
        finished=finished,
        sampling_log_probs=torch.zeros(response_ids.shape),
        reward_token_log_probs=torch.full((len(rows), 1), -20.0).where(finished[:, None], torch.nan),
    )


class TextVerifier(Verifier):
    """The answer is the whole text."""

    def extract(self, response: str) -> str | None:
        return response or None

    def equivalent(self, answer: str, gold: str) -> bool:
        return answer == gold


class OddVerifier(TextVerifier):
    """Gives the solutions of half of the problems the same reward, and random ones to those of the others."""

    def reward(self, response: str, gold: str) -> float:
        return float(int(gold) % 2 and zlib.crc32(response.encode()) % 2)


class PlusVerifier(TextVerifier):
    """Finds solutions right that begin with a plus."""

    def reward(self, response: str, gold: str) -> float:
        return float(response.startswith("+"))
