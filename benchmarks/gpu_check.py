"""The whole matrix on one GPU, by one command: what runs, how fast, how near to the card's limit, in how much memory.

    python benchmarks/gpu_check.py --out gpu.json
    python benchmarks/gpu_check.py --device cpu --tiny      (the same parts on a CPU, in a few minutes)

A Qwen2 of random weights (0.6 billion parameters, vocabulary 131,072) takes training steps of 64 prompts x 8 solutions
of up to 96 tokens in every way that there is (see ``gpu_parts.MEASURES``), and the embedded model says whether the
numbers are right. Each part has a time limit, and one that fails says why and leaves the others alone (see
``gpu_processes``). The JSON is written anew behind every part, so a check that is broken off leaves what it found.

Shares are of a large matrix product in bfloat16, measured by the part ``card``, and count the least that the work needs
(see ``machine_limit``): with LoRA, whose frozen weights get no gradients, that is too much.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from gpu_processes import Outcome, Processes, measure_parts

LIMIT = 280.0
LEAST = 10.0
"""Seconds that must be left for a part to begin."""

PARTS = {
    "card": 180.0,
    "step": 90.0,
    "zero2": 90.0,
    "ddp": 90.0,
    "price": 90.0,
    "head": 90.0,
    "compiled_engine": 120.0,
    "zero3": 90.0,
    "bf16_weights": 90.0,
    "liger": 90.0,
    "packing": 90.0,
    "checkpointing": 90.0,
    "compiled_update": 120.0,
    "offload": 120.0,
    "lora": 90.0,
    "agreement": 90.0,
    "quickstart": 120.0,
    "resume": 90.0,
    "flash": 90.0,
    "vllm": 120.0,
}
"""The parts, the most telling first, and the seconds after which each is broken off."""

COLUMNS = ["part", "result", "s", "rollout tokens/s", "of peak", "update tokens/s", "of peak", "GB loaded", "rollout"]
COLUMNS += ["update", "what else"]
IN_COLUMNS = ("rollout_tokens_per_second", "rollout_tflops", "update_tokens_per_second", "update_tflops", "memory_gb")


# ------------------------------------------------------------------- the check


def check(options: argparse.Namespace, work: Path) -> list[Outcome]:
    """Run the parts one after the other, and write and print each outcome as it comes."""
    began = time.monotonic()
    outcomes: list[Outcome] = []
    processes = Processes(Path(__file__), options.device, options.tiny, work)
    try:
        for part, following in pairwise([*options.parts, None]):
            left = options.limit - (time.monotonic() - began)
            if left < LEAST:
                outcomes.append(Outcome(part, "not run", why=f"of {options.limit:.0f} s {max(left, 0):.0f} were left"))
                continue
            process = processes.of(part)
            if following is not None:
                processes.of(following)  # imports in the meantime
            outcomes.append(process.measure(part, min(options.part_limit or PARTS[part], left)))
            processes.done(part)
            if options.device == "cuda":  # what a CPU can do changes with what else it does
                refuse_impossible(outcomes)
            print(f"{part}: {outcomes[-1].result}, {outcomes[-1].seconds:.1f} s", flush=True)
            write(options.out, outcomes, processes)
        write(options.out, outcomes, processes)
    finally:
        processes.close()
    return outcomes


def write(path: Path | None, outcomes: Sequence[Outcome], processes: Processes) -> None:
    """Write the outcomes as JSON, and the ends of the logs of what failed beside it."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    logs = {outcome.part: processes.log(outcome.part) for outcome in outcomes if outcome.result == "failed"}
    path.with_suffix(".log").write_text("\n".join(f"===== {part}\n{log[-20_000:]}" for part, log in logs.items()))


def refuse_impossible(outcomes: Sequence[Outcome]) -> None:
    """Let a part fail that claims to be faster than the card."""
    peak = peak_of(outcomes)
    for outcome in outcomes:
        fastest = max((outcome.values.get(name, 0.0) for name in ("rollout_tflops", "update_tflops")), default=0.0)
        if peak and outcome.result == "ok" and fastest > peak:
            outcome.result = "failed"
            outcome.why = f"{fastest:.0f} TFLOP/s are more than the card's {peak:.0f}: the measurement is wrong"


def peak_of(outcomes: Sequence[Outcome]) -> float | None:
    """TFLOP/s of the card, where the part ``card`` measured them."""
    return next((outcome.values.get("tflops") for outcome in outcomes if outcome.part == "card"), None)


def rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """The cells of the table."""
    peak = peak_of(outcomes)
    return [cells(outcome, peak) for outcome in outcomes]


def cells(outcome: Outcome, peak: float | None) -> list[str]:
    """One row."""
    values, memory = outcome.values, outcome.values.get("memory_gb", {})

    def number(key: str) -> str:
        return f"{values[key]:,.0f}" if key in values else ""

    def share(key: str) -> str:
        return f"{values[key] / peak:.1%}" if peak and key in values else ""

    others = [f"{name} {shown(value)}" for name, value in values.items() if name not in IN_COLUMNS]
    return [
        outcome.part,
        outcome.result,
        f"{outcome.seconds:.1f}",
        number("rollout_tokens_per_second"),
        share("rollout_tflops"),
        number("update_tokens_per_second"),
        share("update_tflops"),
        *(f"{memory[name]:.2f}" if name in memory else "" for name in ("loaded", "rollout", "update")),
        "; ".join(others) or outcome.why.splitlines()[-1].replace("|", "/"),
    ]


def shown(value: object) -> str:
    """A number with four digits, or a word."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(lines: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (COLUMNS, ["---"] * len(COLUMNS), *lines))


def names(given: str) -> list[str]:
    """Names of parts, from ``a,b``."""
    chosen = given.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part is called {unknown[0]}; there are {', '.join(PARTS)}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check.

    Returns:
        1 if a part failed, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="sizes that a CPU does with")
    parser.add_argument(
        "--only", type=names, default=list(PARTS), metavar="PART,PART", help="these parts, in this order"
    )
    parser.add_argument("--skip", type=names, default=[], metavar="PART,PART", help="not these parts")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds after which no further part is begun")
    parser.add_argument("--part_limit", type=float, help="seconds after which any part is broken off")
    parser.add_argument("--out", type=Path, help="JSON file; logs of what failed are written beside it")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        measure_parts(
            options.device, options.tiny, options.work, deepspeed=options.child in ("zero2", "zero3", "offload")
        )
        return 0
    options.parts = [part for part in options.only if part not in options.skip]
    work = Path(tempfile.mkdtemp(prefix="gpu_check_"))
    try:
        outcomes = check(options, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("\n" + table(rows(outcomes)))
    for outcome in outcomes:
        if outcome.result == "failed":
            print(f"\n{outcome.part}: {outcome.why}")
    return int(any(outcome.result == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
