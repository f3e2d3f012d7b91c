"""Memory and time of the update's forward and backward pass at a vocabulary of 152,000, against the plain one.

    python benchmarks/update_memory.py

Plain is what a model's own forward does: float32 logits of all places, their log-softmax, one gather, and one more pass
of the score's logits. Ours puts hidden states through the head in chunks. Both compute the same loss on the same model
(two layers, random weights) and the same sequences, each in fresh processes that take turns. Memory is the peak above
what the process held before the pass, gradients of all weights included: resident memory on CPU (Linux), allocated
memory on CUDA. Time is CPU seconds of the process on CPU, where other programs cost it least, and wall time on CUDA.
Claim: at most an eighth of the memory, in at most 1.1 times the time.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from laser_lightning.policy.logprobs import reward_token_log_probs
from laser_lightning.policy.model import EMBEDDED, Policy, PolicyOutputs, PolicySettings, load_tokenizer
from laser_lightning.records.batching import MicroBatch

PROMPT, RESPONSE, REWARD_TOKEN = 16, 240, 3


def plain(policy: Policy, batch: MicroBatch, entropy: bool) -> PolicyOutputs:
    """Log-probs from the logits of all places."""
    logits = policy.lm(input_ids=batch.input_ids, use_cache=False).logits.float()
    distribution = torch.log_softmax(logits[:, PROMPT - 1 : -1], dim=-1)
    log_probs = distribution.gather(-1, batch.input_ids[:, PROMPT:, None]).squeeze(-1)
    entropies = -(distribution.exp() * distribution).sum(-1) if entropy else torch.zeros_like(log_probs)
    return PolicyOutputs(log_probs, entropies, reward_token_log_probs(logits[:, -1], (REWARD_TOKEN,)))


def ours(policy: Policy, batch: MicroBatch, entropy: bool) -> PolicyOutputs:
    """Log-probs as the update computes them."""
    return policy(batch, (REWARD_TOKEN,), 1.0, entropy)


VARIANTS: dict[str, Callable[[Policy, MicroBatch, bool], PolicyOutputs]] = {"plain": plain, "ours": ours}


def random_batch(solutions: int, vocabulary: int, device: str) -> MicroBatch:
    """Sequences of one length, so that padding plays no part."""
    ids = torch.randint(vocabulary, (solutions, PROMPT + RESPONSE), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([[PROMPT], [RESPONSE]]).expand(2, solutions)
    trained = torch.ones(solutions, RESPONSE, dtype=torch.bool)
    return MicroBatch(torch.arange(solutions), ids, *lengths, trained).to(torch.device(device))


def memory(device: str, field: str) -> float:
    """MB that the process holds (``VmRSS``), or has held at most (``VmHWM``)."""
    if device == "cuda":
        return (torch.cuda.memory_allocated() if field == "VmRSS" else torch.cuda.max_memory_allocated()) / 1e6
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024 / 1e6


def measure(variant: str, options: argparse.Namespace) -> dict[str, float]:
    """Peak memory and time of one pass, behind a small one that warms up."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2}
    sizes = {"vocab_size": options.vocabulary, "hidden_size": options.hidden, "intermediate_size": 3 * options.hidden}
    shapes = sizes | heads | {"max_position_embeddings": 512}
    settings = PolicySettings(EMBEDDED, random_init=True, config_overrides=shapes)
    policy = Policy(settings, load_tokenizer(settings)).to(options.device)
    clock = time.perf_counter if options.device == "cuda" else time.process_time

    def update(batch: MicroBatch) -> Tensor:
        outputs = VARIANTS[variant](policy, batch, options.entropy)
        signs = 1.0 - 2.0 * (batch.rows % 2)
        loss = (outputs.log_probs.mean(1) * signs).sum() - 0.01 * outputs.entropy.mean()
        (loss + (outputs.reward_token_log_probs + 20.0).square().mean()).backward()
        if options.device == "cuda":
            torch.cuda.synchronize()
        return loss

    update(random_batch(2, options.vocabulary, options.device))
    policy.zero_grad()
    batch = random_batch(max(1, options.tokens // RESPONSE), options.vocabulary, options.device)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, started = memory(options.device, "VmRSS"), clock()
    loss = update(batch)
    seconds, peak = clock() - started, memory(options.device, "VmHWM") - before
    norm = torch.nn.utils.get_total_norm([p.grad for p in policy.parameters() if p.grad is not None])
    return {"megabytes": peak, "seconds": seconds, "loss": float(loss.detach()), "gradient_norm": float(norm)}


def main() -> None:
    """Run both variants in turn, each in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096, help="response tokens of the pass")
    parser.add_argument("--vocabulary", type=int, default=152_000)
    parser.add_argument("--hidden", type=int, default=256, help="width of the model")
    parser.add_argument("--entropy", action="store_true", help="with an entropy term")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--pairs", type=int, default=5, help="runs of each variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variant", choices=VARIANTS, help="run one variant in this process and print its numbers")
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options)))
        return
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for pair in range(options.pairs):
        for name in VARIANTS if pair % 2 else reversed(VARIANTS):
            command = [sys.executable, *sys.argv, "--variant", name]
            result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs[name].append(json.loads(result.splitlines()[-1]))
    print(f"{options.tokens} tokens, vocabulary {options.vocabulary}, width {options.hidden}, {options.device}\n")
    print("| | peak, MB | seconds | loss | gradient norm |\n| --- | --- | --- | --- | --- |")
    medians = {}
    for name, values in runs.items():
        medians[name] = {key: statistics.median(run[key] for run in values) for key in values[0]}
        row = medians[name]
        print(
            f"| {name} | {row['megabytes']:.0f} | {row['seconds']:.2f} | {row['loss']:.5f} "
            f"| {row['gradient_norm']:.5f} |"
        )
    seconds = [mine["seconds"] / other["seconds"] for mine, other in zip(runs["ours"], runs["plain"], strict=True)]
    print(
        f"\nours / plain: memory {medians['ours']['megabytes'] / medians['plain']['megabytes']:.3f}, time "
        f"{statistics.median(seconds):.3f} (median of pairs; {min(seconds):.3f} to {max(seconds):.3f})"
    )


if __name__ == "__main__":
    main()
