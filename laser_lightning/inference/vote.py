"""One answer out of several solutions to one problem, chosen as the metrics of ``metrics/voting.py`` do."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.metrics import SampleGroups, answer_ids
from laser_lightning.metrics.answers import representatives
from laser_lightning.metrics.voting import best_scored, equal_votes, weighted_votes, winners
from laser_lightning.verifiers import VerifierPool


class Vote(NamedTuple):
    """What N solutions to one problem answer, alone and together.

    Where answers tie, the one that was given first is chosen. (The metrics take the mean over them.)

    Attributes:
        answers: N canonical answers, equivalent ones written alike; None where a solution has none.
        majority: the most frequent answer (maj@N); None if there is no answer at all.
        weighted_majority: the answer with the highest sum of self-rewards clamped to [0, 1] (weighted maj@N); the
            plain majority where that sum is 0 for every answer. None if there is no answer at all.
        best: the answer of the solution with the highest self-reward (best-of-N); None if that one has none.
        best_index: which solution that is.
    """

    answers: list[str | None]
    majority: str | None
    weighted_majority: str | None
    best: str | None
    best_index: int


def vote(
    texts: Sequence[str], self_rewards: Sequence[float], pool: VerifierPool, verifier_name: str | None = None
) -> Vote:
    """Let the solutions of one problem vote.

    Args:
        texts: N responses.
        self_rewards: N self-rewards, 0 for truncated responses.
        pool: finds the answers, and says which are equivalent.
        verifier_name: which of a ``MixedVerifier``'s verifiers does; None for its default.

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
    return count(answers, self_rewards)


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


def count(answers: list[str | None], self_rewards: Sequence[float]) -> Vote:
    """Count the votes for answers to one problem.

    Args:
        answers: of N solutions, at least one; equal answers are written alike.
        self_rewards: N self-rewards, 0 for truncated responses.
    """
    nothing = torch.zeros(len(answers), dtype=torch.long)
    groups = SampleGroups.regroup(
        problem_ids=nothing,
        sample_indices=torch.arange(len(answers)),
        rewards=nothing.float(),
        answer_ids=answer_ids(answers),
        self_rewards=torch.tensor(self_rewards, dtype=torch.float32),
    )

    def first(chosen: Tensor) -> int | None:
        return int(chosen.long().argmax()) if chosen.any() else None

    majority, weighted = (first(winners(groups, votes(groups))) for votes in (equal_votes, weighted_votes))
    best = first(best_scored(groups))
    assert best is not None
    return Vote(
        answers,
        None if majority is None else answers[majority],
        None if weighted is None else answers[weighted],
        answers[best],
        best,
    )
