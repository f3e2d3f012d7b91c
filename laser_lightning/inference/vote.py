"""One answer out of several solutions to one problem, chosen by the rules of ``metrics/votes``."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from laser_lightning.errors import UserError
from laser_lightning.metrics import answer_ids
from laser_lightning.metrics.answers import representatives
from laser_lightning.metrics.votes import BestScored, Candidates, Majority, VoteRule, WeightedMajority
from laser_lightning.verifiers import VerifierPool


class Vote(NamedTuple):
    """What N solutions to one problem answer, alone and together.

    Where answers tie, the one that was given first is chosen. (The metrics take the mean over them.)

    Attributes:
        answers: N canonical answers, equivalent ones written alike; None where a solution has none.
        majority: the most frequent answer (maj@N); None if there is no answer at all.
        weighted_majority: the answer with the highest sum of self-rewards clamped to [0, 1] (weighted maj@N); the
            plain majority where that sum is 0 for every answer. None if there is no answer at all.
        best: the answer of the solution with the highest self-reward among those that have an answer (best-of-N); None
            if there is no answer at all.
        best_index: which solution that is; the one with the highest self-reward if there is no answer at all.
        chosen: the answer that a rule of the caller's gives; None without a rule, or if it gives none.
        chosen_index: the first solution that the rule chose; None likewise.
    """

    answers: list[str | None]
    majority: str | None
    weighted_majority: str | None
    best: str | None
    best_index: int
    chosen: str | None = None
    chosen_index: int | None = None


def vote(
    texts: Sequence[str],
    self_rewards: Sequence[float],
    pool: VerifierPool,
    verifier_name: str | None = None,
    rule: VoteRule | None = None,
    finished: Sequence[bool] | None = None,
) -> Vote:
    """Let the solutions of one problem vote.

    Args:
        texts: N responses.
        self_rewards: N self-rewards, 0 for truncated responses.
        pool: finds the answers, and says which are equivalent.
        verifier_name: which of a ``MixedVerifier``'s verifiers does; None for its default.
        rule: gives ``Vote.chosen``, beside the three answers that are always given.
        finished: N, whether each response ended by itself; None if all did.

    Raises:
        UserError: if there is no solution, or no verifier of this name.
    """
    if not texts:
        raise UserError("A vote needs at least one solution.")
    try:
        pool.verifier.named(verifier_name)
    except ValueError as error:
        raise UserError(f"The vote {error}.") from error
    (answers,) = alike([pool.answers(texts, verifier_name)], pool, [verifier_name])
    return count(answers, self_rewards, rule, finished)


def alike(
    groups: list[list[str | None]], pool: VerifierPool, verifiers: Sequence[str | None] | None = None
) -> list[list[str | None]]:
    """Write equivalent answers to the same problem alike.

    Args:
        groups: canonical answers to each problem; None where a solution has none.
        pool: says which are equivalent.
        verifiers: name of each problem's verifier, where problems name theirs.
    """
    return groups if pool.verifier.canonical_decides else representatives(groups, pool.equivalent, verifiers)


def count(
    answers: list[str | None],
    self_rewards: Sequence[float],
    rule: VoteRule | None = None,
    finished: Sequence[bool] | None = None,
) -> Vote:
    """Count the votes for answers to one problem.

    Args:
        answers: of N solutions, at least one; equal answers are written alike.
        self_rewards: N self-rewards, 0 for truncated responses.
        rule: gives ``Vote.chosen``.
        finished: N, whether each response ended by itself; None if all did.
    """
    candidates = candidates_of(answers, self_rewards, finished)
    majority, weighted, best = (chosen_by(one, candidates) for one in (Majority(), WeightedMajority(), BestScored()))
    chosen = None if rule is None else chosen_by(rule, candidates)
    assert best is not None
    return Vote(
        answers,
        None if majority is None else answers[majority],
        None if weighted is None else answers[weighted],
        answers[best],
        best,
        None if chosen is None else answers[chosen],
        chosen,
    )


def candidates_of(
    answers: Sequence[str | None],
    self_rewards: Sequence[float],
    finished: Sequence[bool] | None = None,
    scores: Sequence[Sequence[float]] | None = None,
) -> Candidates:
    """The solutions of one problem as a vote rule sees them.

    Args:
        answers: of N solutions; equal answers are written alike.
        self_rewards: N self-rewards, 0 for truncated responses.
        finished: N, whether each response ended by itself; None if all did.
        scores: N times all scores, NaN for absent ones; None where r_s is the only one.
    """
    own = torch.tensor(self_rewards, dtype=torch.float32)
    return Candidates(
        problems=1,
        problem=torch.zeros(len(answers), dtype=torch.long),
        answer_ids=answer_ids(answers),
        self_rewards=own,
        scores=own[:, None] if scores is None else torch.tensor(scores, dtype=torch.float32),
        finished=torch.ones(len(answers), dtype=torch.bool) if finished is None else torch.tensor(finished).bool(),
    )


def chosen_by(rule: VoteRule, candidates: Candidates) -> int | None:
    """Which solution a rule chooses; of those that tie, the first.

    Args:
        rule: chooses.
        candidates: the solutions of one problem.

    Returns:
        Its number; None where answers are chosen and there is none.
    """
    winners = rule.winners(candidates)
    return int(winners.long().argmax()) if winners.any() else None
