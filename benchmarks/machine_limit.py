"""How near the parts of a training step come to the machine's limit, measured in the same run.

    python benchmarks/machine_limit.py

Limits: FLOP/s of a product of two 2048 x 2048 matrices, and bytes/s of a + b -> c on arrays far larger than the caches
(8192 and 1 GiB on CUDA), both at the run's number of threads. After every training step of LaSeRModule all parts and
both limits are measured once more, and percentages are medians over these rounds.

What is counted is the least that the work needs, in the update, prefill and decode alike:

- FLOPs of matrix products: 2 for each weight of the layers and each token; 4 D for each token, layer and token that it
  attends to (the causal half of the square); 2 for each weight of the head and each position whose logits are needed.
- The backward pass counts as two forward passes. What is recomputed in it (the head, in chunks) is counted once, with
  the forward pass. Nothing is counted for padding, norms, softmax, sampling and the optimizer, whose time is included.
- Bytes of a decoding step: all weights of layers and head once, and keys and values of each row's context once. Copies
  of the cache that grows are not needed, and not counted. The limit is whichever of the two is nearer: a decoding step
  is bound by the memory with few rows, and by arithmetic with many. Weights that fit into a cache of the processor can
  be read faster than memory, so percentages of the bandwidth can exceed 100.

The device and dtype options are there for GPUs (the matrix product is of the dtype); they were not tried on one.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import lightning
import torch
from common import Case, TimedModule, clock, fit, machine, table, write_model

from laser_lightning.policy.model import Policy
from laser_lightning.rollout import Sampling

PREFILL_PROMPTS, PREFILL_TOKENS, DECODED = 16, 128, 64
HEADS = ["model", "part", "ms", "GFLOP/s", "of the peak", "GB/s", "of the bandwidth"]


class Work:
    """FLOPs and bytes that a model needs.

    Args:
        policy: the model.
    """

    def __init__(self, policy: Policy) -> None:
        layers = policy.lm.get_decoder().layers
        self.layer_weights = sum(p.numel() for p in layers.parameters() if p.ndim == 2)
        self.head_weights = policy.lm.get_output_embeddings().weight.numel()
        config = policy.lm.config
        self.depth, self.width = len(layers), config.hidden_size
        self.key_value_width = 2 * config.num_key_value_heads * config.hidden_size // config.num_attention_heads
        self.item = policy.lm.dtype.itemsize

    def flops(self, tokens: float, attended: float, logits: float) -> float:
        """Of a forward pass.

        Args:
            tokens: that go through the layers.
            attended: pairs of a token and one that it attends to.
            logits: positions that go through the head.
        """
        layers = 2 * self.layer_weights * tokens + 4 * self.width * self.depth * attended
        return layers + 2 * self.head_weights * logits

    def bytes_decoded(self, rows: int, context: float) -> float:
        """Of a decoding step of ``rows`` rows that have ``context`` tokens each."""
        cache = rows * context * self.key_value_width * self.depth
        return self.item * (self.layer_weights + self.head_weights + cache)


class Measure(lightning.Callback):
    """Measures limits and parts after each training step."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.size, self.elements = (2048, 2**25) if case.device == "cpu" else (8192, 2**28)
        self.rounds: list[dict[str, tuple[float, float, float]]] = []
        self.limits: list[tuple[float, float]] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: TimedModule, outputs: object, batch: object, _: int
    ) -> None:
        """One round; the first is a warm-up."""
        device, policy = pl_module.device, pl_module.policy
        work = Work(policy)
        # Limits on both sides of the parts, so that what else the machine does meets both alike.
        before = self.limit(device)
        parts = {"update": (pl_module.update_seconds, self.update_flops(work, pl_module), 0.0)}
        parts[f"prefill, {PREFILL_PROMPTS} prompts of {PREFILL_TOKENS}"] = self.prefill(pl_module, work)
        for prompts in (1, self.case.prompts):
            rows = prompts * self.case.group_size
            parts[f"decoding step, {rows} rows"] = self.decoding_step(pl_module, work, prompts)
        after = self.limit(device)
        self.rounds.append(parts)
        self.limits.append(((before[0] + after[0]) / 2, (before[1] + after[1]) / 2))

    def limit(self, device: torch.device) -> tuple[float, float]:
        """FLOP/s of a matrix product, and bytes/s of an addition."""
        dtype = getattr(torch, self.case.dtype)
        left, right = (torch.randn(self.size, self.size, device=device, dtype=dtype) for _ in range(2))
        product = left @ right
        times = 4
        started = clock(device)
        for _ in range(times):
            torch.mm(left, right, out=product)
        flops = times * 2 * self.size**3 / (clock(device) - started)
        a, b, c = (torch.ones(self.elements, device=device) for _ in range(3))
        started = clock(device)
        for _ in range(times):
            torch.add(a, b, out=c)
        return flops, times * 3 * 4 * self.elements / (clock(device) - started)

    def update_flops(self, work: Work, module: TimedModule) -> float:
        """Of the step that has just been taken, forward and backward."""
        assert module.last_rollout is not None
        rollouts = module.last_rollout.rollouts
        lengths = rollouts.prompt_lengths.repeat_interleave(self.case.group_size) + rollouts.response_lengths
        attended = float((lengths * (lengths + 1)).sum()) / 2
        positions = float(rollouts.response_lengths.sum()) + len(lengths)  # the reward token's too
        return 3 * work.flops(float(lengths.sum()), attended, positions)

    def prefill(self, module: TimedModule, work: Work) -> tuple[float, float, float]:
        """Seconds, FLOPs and bytes of decoding a single token behind long prompts."""
        ids = torch.arange(PREFILL_TOKENS) % 64 + 4
        seconds = self.seconds_of(module, [ids.tolist()] * PREFILL_PROMPTS, 1, 1)
        attended = PREFILL_PROMPTS * PREFILL_TOKENS * (PREFILL_TOKENS + 1) / 2
        return seconds, work.flops(PREFILL_PROMPTS * PREFILL_TOKENS, attended, PREFILL_PROMPTS), 0.0

    def decoding_step(self, module: TimedModule, work: Work, prompts: int) -> tuple[float, float, float]:
        """Seconds, FLOPs and bytes of a step: 65 tokens take 64 steps more than 1 token, after the same prefill."""
        ids = [problem.prompt_ids for problem in module.trainer.datamodule.train_problems[:prompts]]  # type: ignore
        group = self.case.group_size
        whole, first = (self.seconds_of(module, ids, group, tokens) for tokens in (DECODED + 1, 1))
        rows, prompt = prompts * group, statistics.mean(len(row) for row in ids)
        context = prompt + (DECODED + 1) / 2  # of the mean step, with the token that is fed
        flops = work.flops(rows, rows * context, rows)
        return (whole - first) / DECODED, flops, work.bytes_decoded(rows, context)

    def seconds_of(self, module: TimedModule, ids: list[list[int]], group: int, tokens: int) -> float:
        """Of sampling ``tokens`` tokens."""
        module.sampler.draw(ids, group, Sampling(tokens), module.generator)
        return module.rollout_seconds

    def rows(self, name: str) -> list[list[str]]:
        """Of the table; the first round was a warm-up."""
        lines = []
        for part in self.rounds[0]:
            values = [rollout[part] for rollout in self.rounds[1:]]
            seconds = statistics.median(value[0] for value in values)
            speeds = [flops / taken for taken, flops, _ in values]
            bandwidths = [moved / taken for taken, _, moved in values]
            limits = list(zip(*self.limits[1:], strict=True))
            of_peak, of_bandwidth = (
                statistics.median(a / b for a, b in zip(done, limit, strict=True))
                for done, limit in zip((speeds, bandwidths), limits, strict=True)
            )
            memory = [f"{statistics.median(bandwidths) / 1e9:.1f}", f"{of_bandwidth:.0%}"] if max(bandwidths) else []
            cells = [f"{seconds * 1e3:.2f}", f"{statistics.median(speeds) / 1e9:.1f}", f"{of_peak:.0%}"]
            lines.append([name, part, *cells, *(memory or ["", ""])])
        return lines

    def limit_line(self) -> str:
        """What the limits are."""
        flops, moved = (statistics.median(values) for values in zip(*self.limits[1:], strict=True))
        return f"limits: {flops / 1e9:.0f} GFLOP/s, {moved / 1e9:.1f} GB/s"


def main() -> None:
    """Measure both models, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["5M", "20M"], choices=["1M", "5M", "20M"])
    parser.add_argument("--vocabulary", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--micro_batch_tokens", type=int, default=2048)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    given = parser.parse_args()
    print(machine(given.threads, given.device) + "\n")
    rows = []
    for size in given.sizes:
        case = Case(
            size=size,
            vocabulary=given.vocabulary,
            threads=given.threads,
            device=given.device,
            dtype=given.dtype,
            steps=given.rounds + 1,
            micro_batch_tokens=given.micro_batch_tokens,
        )
        measure = Measure(case)
        with tempfile.TemporaryDirectory() as directory:
            fit(case, write_model(case, Path(directory)), measure)
        print(f"{size}: {measure.limit_line()}\n", flush=True)
        rows += measure.rows(size)
    print(table(HEADS, rows))


if __name__ == "__main__":
    main()
