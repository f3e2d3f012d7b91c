"""When more solutions to a problem need not be drawn: their vote is decided, or nearly so."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from laser_lightning.errors import UserError
from laser_lightning.inference.vote import candidates_of
from laser_lightning.metrics.votes import AdditiveRule, VoteRule, WeightedMajority
from laser_lightning.metrics.votes.candidates import ONE_VOTE
from laser_lightning.metrics.votes.log_odds import probability

StopReason = Literal["certain", "confidence"]


@dataclass(frozen=True)
class EarlyStop:
    """When to stop drawing solutions to a problem. Its vote, weighted or by a rule, is looked at after each batch.

    Args:
        batch: solutions of each problem that are drawn between two looks.
        confidence: stop when the leading answer is ahead with this probability (see ``lead_probability``, and for rules
            that sum log-odds ``odds_probability``), above 0.5 and below 1; null never stops for it. The answer may be
            another one than that of all solutions.
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

    def reason(
        self,
        answers: Sequence[str | None],
        self_rewards: Sequence[float],
        remaining: int,
        rule: AdditiveRule = WeightedMajority(),
    ) -> StopReason | None:
        """Why to stop now; None to go on.

        Args:
            answers: of the N solutions drawn so far, in their order, equal ones written alike; None for no answer.
            self_rewards: N self-rewards.
            remaining: solutions that may still be drawn, at least 1.
            rule: whose vote is looked at.
        """
        votes = answer_votes(answers, self_rewards, rule)
        if self.certain and is_certain(votes, remaining, rule.least, rule.most):
            return "certain"
        probable = lead_probability if rule.unit == "votes" else odds_probability
        if self.confidence is not None and probable(votes) >= self.confidence:
            return "confidence"
        return None


def stopping_rule(rule: VoteRule | None) -> AdditiveRule:
    """The rule whose vote an early stop looks at: the given one as it decides now, and the weighted vote for None.

    Raises:
        UserError: if its vote is no sum over solutions.
    """
    settled = WeightedMajority() if rule is None else rule.settled()
    if isinstance(settled, AdditiveRule):
        return settled
    assert rule is not None
    by = "" if settled is rule else f", which decides by {type(settled).__name__},"
    raise UserError(
        f"stop looks at votes that add up over solutions, and the rule '{rule.name}'{by} chooses by no such sum: draw "
        "all solutions, with stop=None, or give it an AdditiveRule such as LogOddsVote."
    )


def answer_votes(
    answers: Sequence[str | None], self_rewards: Sequence[float], rule: AdditiveRule = WeightedMajority()
) -> list[int]:
    """The votes of each distinct answer, as a rule counts them; of the answer that appeared first, first.

    Args:
        answers: of N solutions, equal ones written alike; None for no answer, which has no vote.
        self_rewards: N self-rewards.
        rule: says what each solution adds.

    Returns:
        One integer for each distinct answer, in units of 1 / ``ONE_VOTE``.
    """
    votes: dict[str, int] = {}
    of_solutions = rule.votes(candidates_of(answers, self_rewards)).tolist()
    for answer, vote in zip(answers, of_solutions, strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0) + vote
    return list(votes.values())


def is_certain(votes: Sequence[int], remaining: int, least: float = 0.0, most: float = 1.0) -> bool:
    """Whether no further solutions can change the winner of the vote.

    A solution adds between ``least`` and ``most`` to one answer, a known or a new one, and of tied answers the first
    wins. So the leader's distance to a known answer shrinks by at most r max(``most``, -``least``) over r solutions;
    its distance to a new answer, which takes one solution to appear, by at most what r solutions add to that one, or
    what one adds and the others take from the leader. The answer has won when it keeps ahead of all, or level with
    those that appeared after it. This is exact: otherwise some further solutions do change the winner. Where votes are
    never negative, nothing is certain while all are 0, since then any vote at all decides.

    Args:
        votes: of each answer, as from ``answer_votes``.
        remaining: solutions still to come, at least 1.
        least: the least that a solution adds, in whole votes or nats.
        most: the most that it adds.
    """
    highest = max(votes, default=0)
    if not votes or (least >= 0 and highest == 0):
        return False
    leader = votes.index(highest)
    gain, loss = round(most * ONE_VOTE), max(round(-least * ONE_VOTE), 0)
    of_known, of_new = remaining * max(gain, loss), gain + (remaining - 1) * max(gain, loss)
    earlier, later = votes[:leader], votes[leader + 1 :]
    ahead = all(vote + of_known < highest for vote in earlier) and all(vote + of_known <= highest for vote in later)
    return ahead and of_new <= highest


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
        votes: of each answer, as from ``answer_votes``, none negative.

    Returns:
        At least 0.5, up to rounding; 0.5 without any votes.
    """
    first, second = sorted([0, 0, *votes])[:-3:-1]
    return 1 - _half_beta(first / ONE_VOTE + 1, second / ONE_VOTE + 1)


def odds_probability(votes: Sequence[int]) -> float:
    """The probability that the leading answer is right rather than the runner-up, by sums of log-odds.

    With sums L_1 and L_2 of independent evidence that each is right, the odds of the first against the second are
    exp(L_1 - L_2). An answer that has not appeared has no evidence for or against it, and stands at 0: it is the
    runner-up where all others stand lower. Solutions of one model err together, so this is too sure of itself.

    Args:
        votes: of each answer, as from ``answer_votes``, in nats times ``ONE_VOTE``.

    Returns:
        Below 0.5 where the leader has evidence against it; 0.5 without any votes.
    """
    first, second = sorted(votes)[:-3:-1] if len(votes) > 1 else (max(votes, default=0), 0)
    return probability((first - max(second, 0)) / ONE_VOTE)


def _half_beta(a: float, b: float) -> float:
    """I_{1/2}(a, b) for a >= b, by its hypergeometric series (DLMF 8.17.8): of positive terms, each below the last."""
    term = math.exp(math.lgamma(a + b) - math.lgamma(a + 1) - math.lgamma(b) - (a + b) * math.log(2))
    total, n = 0.0, 0
    while term > 1e-17:
        total += term
        term *= (a + b + n) / (a + 1 + n) / 2
        n += 1
    return total
