"""What it saves to compute a prompt once for its group in the update, against once for each solution.

    python benchmarks/shared_prompts.py                                           # a random Llama, prompts x responses
    python benchmarks/shared_prompts.py --model DIR --prompts 45 --responses 9    # on a model of your own
    python benchmarks/shared_prompts.py --model DIR --problems FILE.jsonl         # whole training steps

The first two time forward and backward passes over given solutions, in micro-batches as the update makes them; the last
one steps of LaSeR on the problems of a file, each pair on the same solutions, every other of which is rewarded, so that
all groups have a signal. Both ways take turns in one process. Times are CPU seconds of the process on CPU, which other
programs disturb less than the clock, and wall time on CUDA.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from common import clock, machine, median_ratio, table
from score_price import AlternatingRewards, SameBatch
from torch import Tensor

from laser_lightning.data import FileSource, PromptTemplate
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.modules.optimization import OptimizerSettings
from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.policy.model import EMBEDDED, Policy, PolicySettings, load_tokenizer
from laser_lightning.records.batching import Rollouts
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers import ExactVerifier
from laser_lightning.verifiers.settings import VerificationSettings

SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
}
"""Layers as those of SmolLM2-135M, of which there are 30."""

READ = 3
"""A token that is read behind each response."""


def seconds(device: torch.device) -> float:
    """CPU seconds of the process on CPU; wall time on CUDA, when the device is done."""
    return clock(device) if device.type == "cuda" else time.process_time()


class Places:
    """Counts the tokens, padding included, that go through a policy with gradients."""

    def __init__(self, policy: Policy) -> None:
        self.count = 0
        policy.decoder.register_forward_pre_hook(self._add, with_kwargs=True)

    def _add(self, module: torch.nn.Module, args: object, inputs: dict[str, Tensor]) -> None:
        if torch.is_grad_enabled():
            self.count += inputs["input_ids"].numel()


def given_rollouts(policy: Policy, groups: int, group_size: int, prompt: int, response: int) -> Rollouts:
    """Random solutions of equal lengths."""
    generator, total = torch.Generator().manual_seed(0), groups * group_size
    rollouts = Rollouts(
        prompt_ids=torch.randint(policy.vocabulary_size, (groups, prompt), generator=generator),
        prompt_lengths=torch.full((groups,), prompt),
        response_ids=torch.randint(policy.vocabulary_size, (total, response), generator=generator),
        response_lengths=torch.full((total,), response),
        finished=torch.ones(total, dtype=torch.bool),
        sampling_log_probs=torch.zeros(total, response),
        reward_token_log_probs=torch.zeros(total, 1),
    )
    return Rollouts(**{k: v.to(policy.device) for k, v in vars(rollouts).items() if v is not None})


def passes(policy: Policy, options: argparse.Namespace) -> list[list[str]]:
    """A row for each length of prompt and response."""
    sharing, places, rows = policy.sharing, Places(policy), []
    for prompt in options.prompts:
        for response in options.responses:
            rollouts = given_rollouts(policy, options.groups, options.group_size, prompt, response)
            all_rows = torch.arange(len(rollouts), device=policy.device)
            budget = max(options.micro_batch_tokens, prompt + response)
            taken: dict[bool, list[float]] = {True: [], False: []}
            tokens = {}
            for turn in range(options.pairs + 1):
                for shares in (True, False) if turn % 2 else (False, True):
                    policy.sharing = sharing if shares else None
                    places.count, started = 0, seconds(policy.device)
                    for batch in policy.micro_batches(rollouts, all_rows, budget):
                        outputs = policy(batch, (READ,))
                        (outputs.log_probs.sum() + outputs.reward_token_log_probs.sum()).backward()
                    taken[shares].append(seconds(policy.device) - started)
                    tokens[shares] = places.count
                    policy.zero_grad()
            rows.append([str(prompt), str(response), *cells(tokens, {k: v[1:] for k, v in taken.items()})])
    return rows


def cells(tokens: dict[bool, int], taken: dict[bool, list[float]]) -> list[str]:
    """Tokens and seconds of both ways, and the ratio of pairs, of a row."""
    ratios = [ours / plain for ours, plain in zip(taken[True], taken[False], strict=True)]
    medians = [f"{statistics.median(taken[way]):.2f}" for way in (True, False)]
    ratio = f"{median_ratio(taken[True], taken[False]):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return [f"{tokens[True]:,}", f"{tokens[False]:,}", *medians, ratio]


class Alternate(lightning.Callback):
    """Lets every other step share prompts, and collects what each took."""

    def __init__(self) -> None:
        self.taken: dict[str, dict[bool, list[float]]] = {
            part: {True: [], False: []} for part in ("update", "whole step")
        }
        self.tokens: dict[bool, int] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: "TimedUpdates") -> None:
        """Remember what is shared."""
        self.sharing, self.places = pl_module.policy.sharing, Places(pl_module.policy)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: "TimedUpdates", batch: object, index: int
    ) -> None:
        """Switch."""
        pl_module.policy.sharing = self.sharing if index % 2 else None
        pl_module.generator.manual_seed(index // 2)  # both steps of a pair draw the same solutions
        self.places.count, self.started = 0, seconds(pl_module.device)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: "TimedUpdates", outputs: object, batch: object, index: int
    ) -> None:
        """Collect."""
        shares = bool(index % 2)
        self.taken["whole step"][shares].append(seconds(pl_module.device) - self.started)
        self.taken["update"][shares].append(pl_module.update_seconds)
        self.tokens[shares] = self.places.count


class TimedUpdates(AlternatingRewards):
    """Times its updates."""

    update_seconds = 0.0

    def update_policy(self, *args: Any) -> None:
        """Time it."""
        started = seconds(self.device)
        super().update_policy(*args)
        self.update_seconds = seconds(self.device) - started


def steps(options: argparse.Namespace) -> list[list[str]]:
    """Whole training steps, and the update alone."""
    limit = options.responses[0]
    module = TimedUpdates(
        policy=PolicySettings(str(options.model)),
        self_reward=LastTokenSelfReward(options.token, reference=-27.0, loss_weight=0.5),
        verifier=ExactVerifier("(.+)"),
        group_size=options.group_size,
        sampling=Sampling(max_response_tokens=limit),
        update=UpdateSettings(micro_batch_tokens=options.micro_batch_tokens),
        optimizer=OptimizerSettings(learning_rate=1e-12),
        verification=VerificationSettings(workers=0),
        evaluation=EvaluationSettings(at_start=False, at_end=False),
    )
    data = SameBatch(
        train=FileSource(str(options.problems)), template=PromptTemplate(chat=True), prompts_per_step=options.groups
    )
    timing = Alternate()
    trainer = lightning.Trainer(
        max_steps=2 * options.pairs + 2,
        devices=1,
        accelerator="gpu" if options.device == "cuda" else "cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        callbacks=[timing],
    )
    trainer.fit(module, datamodule=data)
    prompts = [len(problem.prompt_ids) for problem in data.train_problems[: options.groups]]
    lengths = [f"{statistics.mean(prompts):.0f}", f"up to {limit}"]
    return [
        [*lengths, *cells(timing.tokens, {k: v[1:] for k, v in taken.items()}), part]
        for part, taken in timing.taken.items()
    ]


def main() -> None:
    """Run the comparison and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="directory of a model; default: a random one of four layers")
    parser.add_argument("--problems", type=Path, help="train whole steps on the problems of this file (with --model)")
    parser.add_argument("--token", default="<reponame>", help="the reward token of whole steps")
    parser.add_argument("--prompts", type=int, nargs="+", default=[16, 64, 512], help="tokens")
    parser.add_argument("--responses", type=int, nargs="+", default=[8, 64, 512], help="tokens; the limit with steps")
    parser.add_argument("--groups", type=int, default=8, help="prompts")
    parser.add_argument("--group-size", type=int, default=8, help="solutions of each")
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each way, behind one that warms up")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options.threads, options.device) + "\n")
    heads = ["prompt", "response", "tokens, shared", "each its own", "seconds, shared", "each its own", "ratio (range)"]
    if options.problems is not None:
        print(table([*heads, "of"], steps(options)))
        return
    settings = PolicySettings(EMBEDDED, random_init=True, config_overrides=SHAPE)
    if options.model is not None:
        settings = PolicySettings(str(options.model))
    policy = Policy(settings, load_tokenizer(settings)).to(options.device)
    print(table(heads, passes(policy, options)))


if __name__ == "__main__":
    main()
