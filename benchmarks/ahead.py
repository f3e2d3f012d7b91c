"""Seconds of a training step with rounds drawn one ahead, against rounds drawn before each update, on two CPU cores.

    python benchmarks/ahead.py --pairs 8

Three processes take blocks of steps in turn: `rollout.ahead: 0` with one thread, the same with two, and
`rollout.ahead: 1` with one thread in the trainer and one in the process that decodes. The two with two cores are what
there is to compare: torch spreads each product over both cores, or each process has a core of its own. A block ends
when all that was begun in it is drawn, and the first one of each is a warm-up.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from ahead_step import AheadCase
from common import SIZES, Worker, machine, median_ratio, table, write_model

WAYS = {"0, one thread": (0, 1), "0, two threads": (0, 2), "1, one thread each": (1, 1)}
"""``rollout.ahead`` and the trainer's threads."""


def seconds_of_steps(case: AheadCase, pairs: int) -> dict[str, list[float]]:
    """Seconds of a step of each way, one number for each block."""
    with tempfile.TemporaryDirectory() as directory:
        model = write_model(case, Path(directory))
        workers: dict[str, Worker] = {}
        try:
            for way, (ahead, threads) in WAYS.items():
                workers[way] = Worker("ahead_step.py", replace(case, ahead=ahead, threads=threads), model)
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for turn in range(pairs + 1):
                for way in WAYS if turn % 2 else reversed(WAYS):
                    found[way].append(workers[way].step()["seconds"] / case.block)
        finally:
            for worker in workers.values():
                worker.close()
    return {way: seconds[1:] for way, seconds in found.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--block", type=int, default=4, help="steps that are timed together")
    parser.add_argument("--models", nargs="+", default=["5M"], choices=list(SIZES))
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--response_tokens", type=int, nargs="+", default=[64])
    parser.add_argument("--end_probability", type=float, default=0.03, help="of <eos> at each token")
    given = parser.parse_args()
    rows = []
    print(machine(threads=2))
    for model in given.models:
        for tokens in given.response_tokens:
            case = AheadCase(
                size=model,
                prompts=given.prompts,
                response_tokens=tokens,
                end_probability=given.end_probability,
                steps=given.block * (given.pairs + 1),
                block=given.block,
            )
            found = seconds_of_steps(case, given.pairs)
            *others, ahead = WAYS
            cells = [f"{statistics.median(seconds):.2f}" for seconds in found.values()]
            ratios = [found[ahead], *(found[other] for other in others)]
            for other in ratios[1:]:
                each = [a / b for a, b in zip(ratios[0], other, strict=True)]
                cells.append(f"{median_ratio(ratios[0], other):.2f} ({min(each):.2f} to {max(each):.2f})")
            rows.append([model, f"up to {tokens}", *cells])
    heads = ["model", "response tokens", *(f"ahead {way}, s" for way in WAYS), *(f"1 against {way}" for way in others)]
    print(table(heads, rows))


if __name__ == "__main__":
    main()
