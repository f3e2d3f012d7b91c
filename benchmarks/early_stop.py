"""What early stops of sampling save: solutions and tokens per problem, and what becomes of the vote's accuracy.

    laser-lightning fit --config quickstart --run_dir runs/quickstart
    python benchmarks/early_stop.py --export runs/quickstart/export/last

Draws 32 solutions to each held-out problem of the embedded task, with several seeds, and then hands them out in their
order to each rule: what a rule does looks at nothing else, so it does here what it would do live, and all rules are
compared on the same solutions. Plain votes are weighted votes with scores of 1. Fixed numbers of solutions show what
just drawing fewer would cost.

The last columns compare with all 32 solutions of the same vote: the difference of accuracy in points, with its standard
error over problems (paired, each problem the mean over seeds), and the share of problems with the same answer.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from common import machine, table

from laser_lightning import LaSeRScorer
from laser_lightning.data import ArithmeticSource
from laser_lightning.inference.early_stop import EarlyStop
from laser_lightning.inference.solve import Draw, Solution, Solved, solve
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers import ExactVerifier, VerifierPool

N = 32
RULES: dict[str, tuple[int, EarlyStop | None]] = {
    "fixed, 32": (N, None),
    "fixed, 16": (16, None),
    "fixed, 8": (8, None),
    "fixed, 4": (4, None),
    "certain": (N, EarlyStop()),
    **{f"confidence {share}": (N, EarlyStop(confidence=share)) for share in (0.99, 0.95, 0.9)},
}
HEADS = ["vote", "rule", "solutions", "tokens", "tokens saved", "accuracy", "difference to 32", "same answer"]


def handed_out(groups: Sequence[list[Solution]]) -> Draw:
    """Solutions that are there already, in their order."""
    given = [0] * len(groups)

    def draw(rows: list[int], count: int) -> list[list[Solution]]:
        found = [groups[row][given[row] : given[row] + count] for row in rows]
        for row in rows:
            given[row] += count
        return found

    return draw


def row(vote: str, rule: str, seeds: list[list[Solved]], whole: list[list[Solved]], golds: list[str]) -> list[str]:
    """One line of the table: results of each seed, beside those of all 32 solutions."""
    results = [result for found in seeds for result in found]
    solutions = statistics.mean(len(result.solutions) for result in results)
    tokens, all_tokens = (
        statistics.mean(sum(len(s.token_ids) for s in result.solutions) for found in runs for result in found)
        for runs in (seeds, whole)
    )
    accuracies, all_accuracies = (
        [statistics.mean(result.vote.weighted_majority == gold for result in found) for gold, *found in by_problem]
        for by_problem in (zip(golds, *seeds, strict=True), zip(golds, *whole, strict=True))
    )
    gains = [ours - theirs for ours, theirs in zip(accuracies, all_accuracies, strict=True)]
    same = statistics.mean(
        ours.vote.weighted_majority == theirs.vote.weighted_majority
        for found, all_found in zip(seeds, whole, strict=True)
        for ours, theirs in zip(found, all_found, strict=True)
    )
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return [
        vote,
        rule,
        f"{solutions:.1f}",
        f"{tokens:.0f}",
        f"{1 - tokens / all_tokens:.0%}",
        f"{statistics.mean(accuracies):.1%}",
        f"{100 * statistics.mean(gains):+.2f} ± {100 * error:.2f}",
        f"{same:.1%}",
    ]


def main() -> None:
    """Draw the solutions and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path, required=True, help="directory of an export of the quickstart")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options.threads))
    problems = ArithmeticSource("test", size=options.problems).load()
    prompts = [[{"role": "user", "content": problem}] for problem in problems["problem"]]
    pool = VerifierPool(ExactVerifier(r"#(\d+)$"), workers=0)
    drawn: list[list[list[Solution]]] = []
    for seed in range(options.seeds):
        started = time.process_time()
        scorer = LaSeRScorer.from_pretrained(options.export, seed=seed, device="cpu")
        drawn.append(scorer.generate(prompts, N, Sampling(max_response_tokens=96)))
        print(f"seed {seed}: {time.process_time() - started:.0f} CPU seconds", file=sys.stderr)
    rows = []
    for vote in ("plain", "self-reward"):
        if vote == "plain":
            votes = [[[s._replace(self_reward=1.0) for s in group] for group in groups] for groups in drawn]
        else:
            votes = drawn
        found = {
            rule: [solve(handed_out(groups), len(groups), n, stop, pool) for groups in votes]
            for rule, (n, stop) in RULES.items()
        }
        rows += [row(vote, rule, seeds, found["fixed, 32"], problems["answer"]) for rule, seeds in found.items()]
    print(table(HEADS, rows))


if __name__ == "__main__":
    main()
