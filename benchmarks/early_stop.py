"""What early stops of sampling save: solutions and tokens per problem, and what becomes of the vote's accuracy.

    laser-lightning fit --config quickstart --run_dir runs/quickstart
    python benchmarks/early_stop.py --export runs/quickstart/export/last

Draws 32 solutions to each held-out problem of the embedded task, with several seeds, and then hands them out in their
order to each stop: what a stop does looks at nothing else, so it does here what it would do live, and all are compared
on the same solutions, for each vote rule whose votes add up. Fixed numbers of solutions show what just drawing fewer
would cost. Which rule to use is chosen on solutions of training problems, which also calibrate the calibrated vote (the
problems with even row numbers calibrate, those with odd ones compare); it is marked with *.

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
from laser_lightning.metrics import (
    AdditiveRule,
    BestRule,
    CalibratedVote,
    LogOddsVote,
    Majority,
    SampleGroups,
    WeightedMajority,
    answer_ids,
)
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers import ExactVerifier, VerifierPool

N = 32
STOPS: dict[str, tuple[int, EarlyStop | None]] = {
    "fixed, 32": (N, None),
    "fixed, 16": (16, None),
    "fixed, 8": (8, None),
    "fixed, 4": (4, None),
    "certain": (N, EarlyStop()),
    **{f"confidence {share}": (N, EarlyStop(confidence=share)) for share in (0.99, 0.95, 0.9)},
}
HEADS = ["vote", "stop", "solutions", "tokens", "tokens saved", "accuracy", "difference to 32", "same answer"]


def handed_out(groups: Sequence[list[Solution]]) -> Draw:
    """Solutions that are there already, in their order."""
    given = [0] * len(groups)

    def draw(rows: list[int], count: int) -> list[list[Solution]]:
        found = [groups[row][given[row] : given[row] + count] for row in rows]
        for row in rows:
            given[row] += count
        return found

    return draw


def best_on_training(groups: Sequence[list[Solution]], golds: Sequence[str], pool: VerifierPool) -> BestRule:
    """The rules whose votes add up, with the one chosen that is best on solutions of training problems."""
    rule = BestRule([Majority(), WeightedMajority(), LogOddsVote(), CalibratedVote()])
    solutions = [solution for group in groups for solution in group]
    answers = pool.answers([solution.text for solution in solutions])
    of_problems = [number for number, group in enumerate(groups) for _ in group]
    correct = [float(answer == golds[number]) for answer, number in zip(answers, of_problems, strict=True)]
    learned = SampleGroups.regroup(
        problem_ids=torch.tensor(of_problems),
        sample_indices=torch.tensor([sample for group in groups for sample in range(len(group))]),
        rewards=torch.tensor(correct),
        answer_ids=answer_ids(answers),
        self_rewards=torch.tensor([solution.self_reward for solution in solutions]),
        finished=torch.tensor([solution.finished for solution in solutions]),
    )
    rule.learn(learned)
    return rule


def row(vote: str, stop: str, seeds: list[list[Solved]], whole: list[list[Solved]], golds: list[str]) -> list[str]:
    """One line of the table: results of each seed, beside those of all 32 solutions."""
    results = [result for found in seeds for result in found]
    solutions = statistics.mean(len(result.solutions) for result in results)
    tokens, all_tokens = (
        statistics.mean(sum(len(s.token_ids) for s in result.solutions) for found in runs for result in found)
        for runs in (seeds, whole)
    )
    accuracies, all_accuracies = (
        [statistics.mean(result.vote.chosen == gold for result in found) for gold, *found in by_problem]
        for by_problem in (zip(golds, *seeds, strict=True), zip(golds, *whole, strict=True))
    )
    gains = [ours - theirs for ours, theirs in zip(accuracies, all_accuracies, strict=True)]
    same = statistics.mean(
        ours.vote.chosen == theirs.vote.chosen
        for found, all_found in zip(seeds, whole, strict=True)
        for ours, theirs in zip(found, all_found, strict=True)
    )
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    return [
        vote,
        stop,
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
    parser.add_argument("--training_problems", type=int, default=400, help="problems that choose the rule")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(options.threads))
    pool = VerifierPool(ExactVerifier(r"#(\d+)$"), workers=0)
    sampling = Sampling(max_response_tokens=96)

    def drawn(split: str, size: int, n: int, seed: int) -> tuple[list[list[Solution]], list[str]]:
        """Solutions to problems of a split, and the gold answers."""
        started, problems = time.process_time(), ArithmeticSource(split, size=size).load()
        scorer = LaSeRScorer.from_pretrained(options.export, seed=seed, device="cpu")
        found = scorer.generate([[{"role": "user", "content": text}] for text in problems["problem"]], n, sampling)
        print(f"{split}, seed {seed}: {time.process_time() - started:.0f} CPU seconds", file=sys.stderr)
        return found, list(problems["answer"])

    chosen = best_on_training(*drawn("train", options.training_problems, 8, options.seeds), pool)
    for rule, accuracy in zip(chosen.rules, chosen.accuracies(), strict=True):
        print(f"{rule.name} with 8 solutions, on training problems: {accuracy:.1%}")
    held_out = [drawn("test", options.problems, N, seed) for seed in range(options.seeds)]
    golds = held_out[0][1]
    rows = []
    for rule in chosen.rules:
        settled = rule.settled()
        assert isinstance(settled, AdditiveRule)
        found = {
            stop: [solve(handed_out(groups), len(groups), n, given, pool, settled) for groups, _ in held_out]
            for stop, (n, given) in STOPS.items()
        }
        name = f"{rule.name} *" if rule is chosen.best else rule.name
        rows += [row(name, stop, seeds, found["fixed, 32"], golds) for stop, seeds in found.items()]
    print(table(HEADS, rows))


if __name__ == "__main__":
    main()
