"""Solves problems 8 times with a trained model, and lets them vote: python vote.py EXPORT "18,6,5>29" 756+894"""

import sys

from laser_lightning import LaSeRScorer
from laser_lightning.rollout import Sampling
from laser_lightning.verifiers import ArithmeticVerifier


def main(export: str, *problems: str) -> None:
    scorer = LaSeRScorer.from_pretrained(export)
    prompts = [[{"role": "user", "content": problem}] for problem in problems]
    solved = scorer.generate(prompts, n=8, sampling=Sampling(max_response_tokens=96))
    for problem, solutions in zip(problems, solved, strict=True):
        vote = scorer.vote(solutions, ArithmeticVerifier())
        agreeing = vote.answers.count(vote.weighted_majority)
        print(f"{problem}: {vote.weighted_majority} ({agreeing} of 8 solutions)")
        for solution in sorted(solutions, key=lambda solution: -solution.self_reward)[:2]:
            print(f"    {solution.self_reward:.2f} {solution.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
