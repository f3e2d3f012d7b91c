"""A process of the benchmarks: TRL's GRPOTrainer, one step whenever the parent says so.

Nothing that would slow TRL down is on: no gradient checkpointing, no reference model, no logs, no checkpoints, one
generation for all solutions of a step, and no extra pass for old log-probs. ``Case.trl_settings`` may say otherwise.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common import Case, StepTimer, case_of_child, prompt_texts, trained_sizes, wait_for_turn
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from laser_lightning.verifiers import Verifier


class Told(TrainerCallback):
    """Waits for the parent before each step, and reports after it.

    Args:
        device: of the model.
        verifier: gives the rewards.
        prompt_lengths: tokens of each prompt.
    """

    def __init__(self, device: torch.device, verifier: Verifier, prompt_lengths: Mapping[str, int]) -> None:
        self.device, self.verifier, self.prompt_lengths = device, verifier, prompt_lengths
        self._begin()

    def _begin(self) -> None:
        self.lengths: list[int] = []
        self.prompts: list[str] = []
        self.rewards: list[float] = []

    def reward(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], answer: list[str], **_: Any
    ) -> list[float]:
        """The reward; also sees what was sampled."""
        rewards = [self.verifier.reward(*pair) for pair in zip(completions, answer, strict=True)]
        self.lengths += [len(ids) for ids in completion_ids]  # a step may come in several parts
        self.prompts += prompts
        self.rewards += rewards
        return rewards

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait."""
        wait_for_turn()
        self._begin()
        self.timer = StepTimer(self.device)

    def on_step_end(self, *_: Any, optimizer: Any, **__: Any) -> None:
        """Report."""
        self.timer.report(
            tokens=sum(self.lengths),
            solutions=len(self.lengths),
            prompt_tokens=sum(self.prompt_lengths[prompt] for prompt in self.prompts),
            reward=sum(self.rewards) / len(self.rewards),
            **trained_sizes(optimizer),
        )


def train(case: Case, path: Path, kind: type[Told] = Told) -> None:
    """Train, with a callback of this kind."""
    torch.set_num_threads(case.threads)
    tokenizer = AutoTokenizer.from_pretrained(path)
    prompts, answers = prompt_texts(case, path), case.data_settings["train"].load()["answer"]
    lengths = dict(zip(prompts, map(len, tokenizer(prompts)["input_ids"]), strict=True))
    told = kind(torch.device(case.device), case.verifier, lengths)
    with tempfile.TemporaryDirectory() as output:
        settings = {
            "output_dir": output,
            "use_cpu": case.device == "cpu",
            "bf16": False,  # no autocast: the weights have the type of the computation
            "max_steps": case.steps,
            "per_device_train_batch_size": case.solutions // case.accumulation,
            "gradient_accumulation_steps": case.accumulation,
            "num_generations": case.group_size,
            "max_completion_length": case.response_tokens,
            "temperature": 1.0,
            "beta": 0.0,
            "loss_type": "dapo",  # the mean over all response tokens, as ours
            "mask_truncated_completions": False,
            "learning_rate": case.learning_rate,
            "lr_scheduler_type": "constant",
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "gradient_checkpointing": False,
            "shuffle_dataset": False,
            "dataloader_pin_memory": case.device != "cpu",
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, case.dtype)),
            reward_funcs=told.reward,
            args=GRPOConfig(**(settings | case.trl_settings)),
            train_dataset=Dataset.from_dict({"prompt": prompts, "answer": list(answers)}),
            processing_class=tokenizer,
            callbacks=[told],
        )
        trainer.train()


if __name__ == "__main__":
    train(*case_of_child())
