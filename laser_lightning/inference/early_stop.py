"""When more solutions to a problem need not be drawn: the weighted vote is decided, or nearly so."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from laser_lightning.errors import UserError
from laser_lightning.metrics.votes.candidates import ONE_VOTE
from laser_lightning.metrics.votes.weighted_majority import score_votes

StopReason = Literal["certain", "confidence"]


@dataclass(frozen=True)
class EarlyStop:
    """When to stop drawing solutions to a problem. Its weighted vote is looked at after each batch of them.

    Args:
        batch: solutions of each problem that are drawn between two looks.
        confidence: stop when the leading answer is ahead with this probability (see ``lead_probability``), above 0.5
            and below 1; null never stops for it. The answer may be another one than that of all solutions.
        certain: stop when the solutions still to come cannot change the answer (see ``is_certain``).
    """

    batch: int = 4
    confidence: float | None = None
    certain: bool = True

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UserError(f"stop.batch is {self.batch}, and must be at least 1.")
        if self.confidence is not None and not 0.5 < self.confidence < 1:
            raise UserError(f"stop.confidence is {self.confidence}, and must be above 0.5 and below 1, or null.")
        if self.confidence is None and not self.certain:
            raise UserError("stop has no rule: set stop.confidence or stop.certain, or give no `stop` at all.")

    def reason(self, answers: Sequence[str | None], self_rewards: Sequence[float], remaining: int) -> StopReason | None:
        """Why to stop now; None to go on.

        Args:
            answers: of the N solutions drawn so far, in their order, equal ones written alike; None for no answer.
            self_rewards: N self-rewards, which count as in the weighted vote: clamped to [0, 1].
            remaining: solutions that may still be drawn, at least 1.
        """
        votes = answer_votes(answers, self_rewards)
        if self.certain and is_certain(votes, remaining):
            return "certain"
        if self.confidence is not None and lead_probability(votes) >= self.confidence:
            return "confidence"
        return None


def answer_votes(answers: Sequence[str | None], self_rewards: Sequence[float]) -> list[int]:
    """The votes of each distinct answer, as the weighted vote counts them; of the answer that appeared first, first.

    Args:
        answers: of N solutions, equal ones written alike; None for no answer, which has no vote.
        self_rewards: N self-rewards.

    Returns:
        One integer for each distinct answer, in units of 1 / ``ONE_VOTE``.
    """
    scores = torch.tensor(self_rewards, dtype=torch.float32)
    votes: dict[str, int] = {}
    for answer, vote in zip(answers, score_votes(scores).tolist(), strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + vote
    return list(votes.values())


def is_certain(votes: Sequence[int], remaining: int) -> bool:
    """Whether no further solutions can change the winner of the weighted vote.

    A solution adds at most one whole vote, to a known answer or to a new one, and of tied answers the first wins. So
    an answer with V votes has won when each other one has at most V - ``remaining`` (less than that, if it appeared
    earlier), and ``remaining`` itself is at most V. This is exact: otherwise some further solutions do change the
    winner. Nothing is certain while all votes are 0, since then any vote at all decides.

    Args:
        votes: of each answer, as from ``answer_votes``.
        remaining: solutions still to come, at least 1.
    """
    most = max(votes, default=0)
    if most == 0:
        return False
    leader, gain = votes.index(most), remaining * ONE_VOTE
    earlier, later = votes[:leader], [*votes[leader + 1 :], 0]
    return all(vote + gain < most for vote in earlier) and all(vote + gain <= most for vote in later)


def lead_probability(votes: Sequence[int]) -> float:
    r"""The probability that the leading answer is the one that the model gives more often than the runner-up.

    Let p be the share of the leader in the votes that an endless sample gives to the two. With a uniform prior, and
    votes v_1 and v_2 counted as observations, p follows Beta(v_1 + 1, v_2 + 1), and

        P(p > 1/2) = 1 - I_{1/2}(v_1 + 1, v_2 + 1),

    with the regularized incomplete beta function I. This is the stopping rule of adaptive-consistency (Aggarwal et
    al., arXiv 2305.11860, the Beta criterion), where each solution counts 1; here it counts its self-reward clamped
    to [0, 1]. It speaks of the vote, not of the truth: a model that is surely wrong leads with certainty. And as it is
    looked at again and again, and the runner-up is the best of many, the answer differs from that of all solutions
    somewhat more often than the probability says.

    Args:
        votes: of each answer, as from ``answer_votes``.

    Returns:
        At least 0.5, up to rounding; 0.5 without any votes.
    """
    first, second = sorted([0, 0, *votes])[:-3:-1]
    return 1 - _half_beta(first / ONE_VOTE + 1, second / ONE_VOTE + 1)


def _half_beta(a: float, b: float) -> float:
    """I_{1/2}(a, b) for a >= b, by its hypergeometric series (DLMF 8.17.8): of positive terms, each below the last."""
    term = math.exp(math.lgamma(a + b) - math.lgamma(a + 1) - math.lgamma(b) - (a + b) * math.log(2))
    total, n = 0.0, 0
    while term > 1e-17:
        total += term
        term *= (a + b + n) / (a + 1 + n) / 2
        n += 1
    return total
