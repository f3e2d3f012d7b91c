"""Problems solved by several solutions and their vote, drawn in rounds until the votes are decided."""

from collections.abc import Callable
from typing import NamedTuple

from laser_lightning.inference.early_stop import EarlyStop, StopReason, stopping_rule
from laser_lightning.inference.vote import Vote, alike, count
from laser_lightning.metrics.votes import VoteRule, WeightedMajority
from laser_lightning.verifiers import VerifierPool


class Solution(NamedTuple):
    """A response and what the model says of it.

    Attributes:
        text: the response, without special tokens where the model wrote it.
        token_ids: its tokens, ``<eos>`` included.
        finished: whether it ends in ``<eos>``; one that does not was cut at the length limit (truncated).
        reward_token_log_prob: log pi(z_c given x, y), in nats, at temperature 1; NaN if truncated. Of the
            first token of a self-reward that reads others.
        self_reward: r_s = beta * (log pi(z_c given x, y) - c_ref), or pi(z_yes given x, y): about 1 for "correct" and
            0 for "incorrect"; 0 if truncated.
        verdict: whether the model takes it for correct: r_s above the export's threshold; False if truncated.
    """

    text: str
    token_ids: list[int]
    finished: bool
    reward_token_log_prob: float
    self_reward: float
    verdict: bool


class Solved(NamedTuple):
    """A problem's solutions and their vote.

    Attributes:
        solutions: all that were drawn, in their order.
        vote: of them.
        stopped: why no more were drawn; None if all were.
    """

    solutions: list[Solution]
    vote: Vote
    stopped: StopReason | None


Draw = Callable[[list[int], int], list[list[Solution]]]
"""Draws so many solutions to each of the problems with these numbers."""


def solve(
    draw: Draw, problems: int, n: int, stop: EarlyStop | None, pool: VerifierPool, rule: VoteRule | None = None
) -> list[Solved]:
    """Draw solutions to problems, in each round for all that are not decided yet, and let them vote.

    Args:
        draw: draws solutions.
        problems: number of problems, P.
        n: most solutions of a problem.
        stop: when not to draw all ``n``; None draws them in one round.
        pool: finds the answers, and says which are equivalent.
        rule: gives ``Vote.chosen``; ``stop`` looks at its vote, and at the weighted vote without one.

    Returns:
        P results.

    Raises:
        UserError: if ``stop`` is given with a rule whose vote is no sum over solutions.
    """
    watched = stopping_rule(rule) if stop is not None else WeightedMajority()
    solutions: list[list[Solution]] = [[] for _ in range(problems)]
    answers: list[list[str | None]] = [[] for _ in range(problems)]
    stopped: list[StopReason | None] = [None] * problems
    undecided, drawn = list(range(problems)), 0
    while undecided and drawn < n:
        batch = n if stop is None else min(stop.batch, n - drawn)
        drawn += batch
        groups = draw(undecided, batch)
        found = pool.answers([solution.text for group in groups for solution in group])
        for place, (row, group) in enumerate(zip(undecided, groups, strict=True)):
            solutions[row] += group
            answers[row] += found[place * batch : (place + 1) * batch]
        if stop is not None and drawn < n:
            for row, same in zip(undecided, alike([answers[row] for row in undecided], pool), strict=True):
                stopped[row] = stop.reason(same, [s.self_reward for s in solutions[row]], n - drawn, watched)
            undecided = [row for row in undecided if stopped[row] is None]
    votes = [
        count(same, [s.self_reward for s in group], rule, [s.finished for s in group])
        for same, group in zip(alike(answers, pool), solutions, strict=True)
    ]
    return [Solved(*columns) for columns in zip(solutions, votes, stopped, strict=True)]
