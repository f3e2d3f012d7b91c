"""What the self-rewarding part costs: decoding with the score, without it, and without it but with the published way's
second pass over prompt and response; and whole training steps with and without the self-rewarding loss: in turn, in one
run.

    python benchmarks/score_price.py

Every other solution is rewarded, so that every group has a signal: with plain GRPO the solutions of groups whose
rewards are all equal need no forward pass, and the steps would not do the same work. The learning rate is so small that
all pairs see the same policy. Times are CPU seconds of the process, which other programs disturb less than the clock.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import lightning
import torch

from laser_lightning.data import ArithmeticSource, PromptDataModule, PromptTemplate
from laser_lightning.data.problem import Problem
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.policy.model import EMBEDDED, Policy, PolicySettings
from laser_lightning.records.rollout import Rollout
from laser_lightning.rollout import Sampling, TransformersEngine
from laser_lightning.rollout.sampler import Sampler
from laser_lightning.verifiers import ExactVerifier
from laser_lightning.verifiers.settings import VerificationSettings


class AlternatingSampler(Sampler):
    """Rewards every other solution, whatever it says."""

    def rollout(self, *args: Any, **options: Any) -> Rollout:
        """A round with the rewards 0, 1, 0, 1, ..."""
        rollout = super().rollout(*args, **options)
        rollout.rewards = (torch.arange(len(rollout.rewards)) % 2).float()
        return rollout


class AlternatingRewards(LaSeRModule):
    """Trains on such rewards."""

    def make_sampler(self) -> Sampler:
        """What gives them."""
        return AlternatingSampler(**vars(super().make_sampler()))


class Alternate(lightning.Callback):
    """Switches the self-rewarding loss on and off in turn, and collects the seconds of each step."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self.started = 0.0

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: LaSeRModule, batch: object, index: int
    ) -> None:
        """Switch."""
        pl_module.self_reward.loss_weight = self.weight if index % 2 else 0.0
        # Both steps of a pair draw the same solutions.
        pl_module.generator.manual_seed(index // 2)
        self.started = time.process_time()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: LaSeRModule, outputs: object, batch: object, index: int
    ) -> None:
        """Collect."""
        self.seconds[bool(index % 2)].append(time.process_time() - self.started)


class SameBatch(PromptDataModule):
    """Gives every step the same problems, so that the steps of a pair do the same work."""

    def train_dataloader(self) -> "SameBatch":  # type: ignore[override]
        """This object: one batch, over and over."""
        return self

    def __iter__(self) -> Iterator[list[Problem]]:
        return itertools.repeat(self.train_problems[: self.prompts_per_step])


def build(reference: float) -> LaSeRModule:
    """The quickstart's module."""
    return AlternatingRewards(
        policy=PolicySettings(EMBEDDED),
        self_reward=LastTokenSelfReward("<|reward|>", beta=0.2, reference=reference, loss_weight=0.5),
        verifier=ExactVerifier(r"#(\d+)$"),
        sampling=Sampling(max_response_tokens=96),
        update=UpdateSettings(micro_batch_tokens=2048),
        optimizer=OptimizerSettings(learning_rate=1e-12),
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(at_start=False, at_end=False),
    )


WAYS = ("same pass", "no score", "second pass")
ORDERS = list(itertools.permutations(WAYS))
REWARD_TOKEN = 3


def decoding_seconds(policy: Policy, prompts: list[list[int]], turns: int) -> dict[str, list[float]]:
    """CPU seconds of decoding 8 responses to each prompt in each of the three ways, in turn."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(turns + 2):
        for way in ORDERS[turn % len(ORDERS)]:
            engine, generator = TransformersEngine(scores=way == "same pass"), torch.Generator().manual_seed(turn)
            started = time.process_time()
            rollouts = engine.generate(policy, prompts, 8, Sampling(96), (REWARD_TOKEN,), generator)
            if way == "second pass":
                with torch.no_grad():
                    policy.scores_of(rollouts, (REWARD_TOKEN,), 2048)
            seconds[way].append(time.process_time() - started)
    return {way: of_way[2:] for way, of_way in seconds.items()}


def report(name: str, with_it: list[float], without: list[float]) -> None:
    """One row: medians, and the median of the ratios of neighbouring runs."""
    ratios = [a / b for a, b in zip(with_it, without, strict=True)]
    print(
        f"| {name} | {statistics.median(with_it) * 1e3:.1f} | {statistics.median(without) * 1e3:.1f} "
        f"| {statistics.median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} |"
    )


def main() -> None:
    """Run both comparisons and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30, help="pairs of runs for each comparison")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    module, timing = build(-16.0), Alternate(0.5)
    data = SameBatch(train=ArithmeticSource("train", size=64), template=PromptTemplate(chat=True))
    trainer = lightning.Trainer(
        max_steps=2 * options.pairs + 4,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[timing],
    )
    trainer.fit(module, datamodule=data)

    prompts = [problem.prompt_ids for problem in data.train_problems[:32]]
    embedded = decoding_seconds(module.policy, prompts, options.pairs)
    # Random weights end a response with probability 1/260 per token: some 70 of 256 within 96 tokens.
    random_weights = Policy(PolicySettings(EMBEDDED, random_init=True), module.tokenizer)
    long = decoding_seconds(random_weights, prompts, options.pairs)

    print("| | with, ms | without, ms | ratio (median of pairs) | range |\n| --- | --- | --- | --- | --- |")
    for tokens, of_way in ((17, embedded), (80, long)):
        what = f"decoding 256 responses of {tokens} tokens"
        report(f"{what}, with and without the score", of_way["same pass"], of_way["no score"])
        report(f"{what}, with the score by a second pass, and without", of_way["second pass"], of_way["no score"])
    report(
        "training step, with and without the self-rewarding loss", timing.seconds[True][2:], timing.seconds[False][2:]
    )


if __name__ == "__main__":
    main()
