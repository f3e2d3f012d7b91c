"""One step of LaSeR here against one step of GRPO in TRL: solutions per second and peak memory, in turn in one run.

    pip install 'trl==1.16.*' 'torch<2.14'   # in the environment of this project, or a copy of it
    python benchmarks/against_trl.py

Both train the same random weights on the same 16 prompts x 8 solutions of at most 64 tokens at temperature 1, with the
same reward, AdamW, learning rate, type of numbers and threads; TRL generates with `generate` of transformers, has no
reference model (beta 0) and is set up for speed (`trl_step.py`). Ours does more: it reads the score of every finished
solution, mixes it into the advantages and trains the self-rewarding loss. Responses have all 64 tokens (<eos> is never
drawn, so that no solution has a score), or end with probability 1/24 at each token. For each case and trainer there is
a fresh process; the two take steps in turn, and ratios are of neighbouring steps. Memory is the process's peak
resident memory with its libraries (on CUDA the peak of allocated device memory). Ours leaves out the solutions of
groups whose rewards are all equal and that have no score: 1 group in 128 here, and none where responses end.

The device and dtype options are there for GPUs; they were not tried on one.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

from common import Case, Worker, machine, median_ratio, table, write_model

MODELS = {"5M, vocabulary 80": ("5M", 80), "21M, vocabulary 32,000": ("5M", 32_000)}
LENGTHS = {"all of 64 tokens": 0.0, "1 to 64 tokens": 1 / 24}
ACCUMULATION = {80: 4, 32_000: 8}
"""Parts of TRL's step, by vocabulary: the fastest of 1, 2, 4, 8 and 16 in a trial on 2 CPU cores."""
HEADS = ["model", "responses", "solutions/s, ours", "TRL", "ratio (range)", "ratio of CPU time", "mean length, ours"]
HEADS += ["TRL", "peak GB, ours", "TRL", "before the first step, ours", "TRL", "pairs"]


def compare(name: str, lengths: str, case: Case, least_pairs: int, seconds: float) -> list[str]:
    """A row of the table: pairs of steps until the time is up."""
    with tempfile.TemporaryDirectory() as directory:
        model = write_model(case, Path(directory))
        workers = {"ours": Worker("our_step.py", case, model), "trl": Worker("trl_step.py", case, model)}
        results: dict[str, list[dict[str, float]]] = {side: [] for side in workers}
        try:
            for side, worker in workers.items():
                results[side].append(worker.step())  # warm-up
            started = time.perf_counter()
            while (pairs := len(results["trl"]) - 1) < least_pairs or time.perf_counter() - started < seconds:
                if pairs == case.steps - 1:
                    break
                for side in sorted(workers, reverse=pairs % 2 == 1):
                    results[side].append(workers[side].step())
        finally:
            for worker in workers.values():
                worker.close()
    first = {side: steps.pop(0) for side, steps in results.items()}
    if any(step["solutions"] != case.solutions for steps in results.values() for step in steps):
        raise SystemExit("A step had another number of solutions than asked for.")

    def median(side: str, key: str) -> float:
        return statistics.median(step[key] for step in results[side])

    def all_of(side: str, key: str) -> list[float]:
        return [step[key] for step in results[side]]

    def mean_length(side: str) -> float:
        return sum(all_of(side, "tokens")) / (len(results[side]) * case.solutions)

    ours, theirs = all_of("ours", "seconds"), all_of("trl", "seconds")
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    speeds = [f"{case.solutions / median(side, 'seconds'):.1f}" for side in ("ours", "trl")]
    return [
        name,
        lengths,
        *speeds,
        f"{median_ratio(theirs, ours):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{median_ratio(all_of('trl', 'cpu_seconds'), all_of('ours', 'cpu_seconds')):.2f}",
        *(f"{mean_length(side):.1f}" for side in ("ours", "trl")),
        *(f"{results[side][-1]['memory']:.2f}" for side in ("ours", "trl")),
        *(f"{first[side]['loaded']:.2f}" for side in ("ours", "trl")),
        str(len(ratios)),
    ]


def main() -> None:
    """Print the table, a row when it is ready."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--lengths", nargs="+", default=list(LENGTHS), choices=list(LENGTHS))
    parser.add_argument("--seconds", type=float, default=40, help="time for the steps of a case")
    parser.add_argument("--pairs", type=int, default=3, help="least pairs of steps of a case, however long they take")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--accumulation", type=int, help="parts of TRL's step; default: the fastest in a trial")
    parser.add_argument("--micro_batch_tokens", type=int, default=2048, help="ours")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    given = parser.parse_args()
    print(machine(given.threads, given.device) + "\n")
    print(table(HEADS, []), flush=True)
    for name in given.models:
        size, vocabulary = MODELS[name]
        case = Case(
            size=size,
            vocabulary=vocabulary,
            threads=given.threads,
            device=given.device,
            dtype=given.dtype,
            steps=1000,
            micro_batch_tokens=given.micro_batch_tokens,
            accumulation=given.accumulation or ACCUMULATION[vocabulary],
        )
        for lengths in given.lengths:
            varied = dataclasses.replace(case, end_probability=LENGTHS[lengths])
            print(f"| {' | '.join(compare(name, lengths, varied, given.pairs, given.seconds))} |", flush=True)


if __name__ == "__main__":
    main()
