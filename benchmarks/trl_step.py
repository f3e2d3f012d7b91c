"""A process of the benchmarks: TRL's GRPOTrainer, one step whenever the parent says so.

Nothing that would slow TRL down is on: no gradient checkpointing, no reference model, no logs, no checkpoints, one
generation for all solutions of a step, and no extra pass for old log-probs.
"""

import tempfile
from typing import Any

import torch
from common import LEARNING_RATE, StepTimer, case_of_child, parity, prompt_texts, wait_for_turn
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


class Told(TrainerCallback):
    """Waits for the parent before each step, and reports after it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.lengths = device, [0]

    def reward(self, completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        """The reward; also sees how long the responses are."""
        self.lengths = [len(ids) for ids in completion_ids]
        return [parity(completion) for completion in completions]

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Wait."""
        wait_for_turn()
        self.timer = StepTimer(self.device)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Report."""
        self.timer.report(tokens=sum(self.lengths), solutions=len(self.lengths))


def main() -> None:
    """Train."""
    case, path = case_of_child()
    torch.set_num_threads(case.threads)
    with tempfile.TemporaryDirectory() as output:
        settings = GRPOConfig(
            output_dir=output,
            use_cpu=case.device == "cpu",
            bf16=False,  # no autocast: the weights have the type of the computation
            max_steps=case.steps,
            per_device_train_batch_size=case.solutions // case.accumulation,
            gradient_accumulation_steps=case.accumulation,
            num_generations=case.group_size,
            max_completion_length=case.response_tokens,
            temperature=1.0,
            beta=0.0,
            loss_type="dapo",  # the mean over all response tokens, as ours
            mask_truncated_completions=False,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            max_grad_norm=1.0,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            dataloader_pin_memory=case.device != "cpu",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        told = Told(torch.device(case.device))
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, case.dtype)),
            reward_funcs=told.reward,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": prompt_texts(case, path)}),
            processing_class=AutoTokenizer.from_pretrained(path),
            callbacks=[told],
        )
        trainer.train()


if __name__ == "__main__":
    main()
