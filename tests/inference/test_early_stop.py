"""Decided votes against all that could still come, and the probability of a lead against integrals."""

import itertools
import math
import random

import pytest
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.inference.early_stop import (
    EarlyStop,
    answer_votes,
    is_certain,
    lead_probability,
    odds_probability,
)
from laser_lightning.inference.vote import count
from laser_lightning.metrics.votes import AdditiveRule, CalibratedVote, Candidates, LogOddsVote, Majority
from laser_lightning.metrics.voting import ONE_VOTE

Answers = list[str | None]
SCORES = [-0.5, 0.0, 0.25, 0.5, 1.0, 1.75]


def winner(answers: Answers, scores: list[float]) -> str | None:
    """The weighted vote in plain numbers, which multiples of 1/4 add up to exactly."""
    for weights in ([min(max(score, 0.0), 1.0) for score in scores], [1.0] * len(scores)):
        totals: dict[str, float] = {}
        for answer, weight in zip(answers, weights, strict=True):
            if answer is not None:
                totals[answer] = totals.get(answer, 0.0) + weight
        if any(totals.values()):
            return max(totals, key=totals.__getitem__)
    return None


def test_certain_is_when_nothing_that_could_come_changes_the_winner() -> None:
    rng = random.Random(0)
    ends = list(itertools.product([None, "a", "b", "c", "new"], [0.0, 0.5, 1.0]))
    seen = {True: 0, False: 0}
    for _ in range(400):
        answers: Answers = rng.choices(["a", "b", "c", None], [4, 2, 1, 1], k=rng.randint(1, 7))
        scores = rng.choices(SCORES, k=len(answers))
        remaining = rng.randint(1, 2)
        now = winner(answers, scores)
        kept = all(
            winner([*answers, *(end[0] for end in more)], [*scores, *(end[1] for end in more)]) == now
            for more in itertools.product(ends, repeat=remaining)
        )
        assert is_certain(answer_votes(answers, scores), remaining) == kept, (answers, scores, remaining)
        assert count(answers, scores).weighted_majority == now
        seen[kept] += 1
    assert min(seen.values()) > 50


def test_the_answer_is_that_of_all_solutions() -> None:
    rng = random.Random(1)
    early = 0
    for _ in range(60):
        n = rng.randint(2, 20)
        answers: Answers = rng.choices(["a", "b", None], [rng.random(), 0.3, 0.1], k=n)
        scores = [rng.gauss(0.6, 0.5) for _ in range(n)]
        for drawn in range(1, n):
            if EarlyStop().reason(answers[:drawn], scores[:drawn], n - drawn) == "certain":
                found, whole = count(answers[:drawn], scores[:drawn]), count(answers, scores)
                assert found.weighted_majority == whole.weighted_majority
                early += 1
    assert early > 60


def test_certain_by_hand() -> None:
    def certain(votes: list[float], remaining: int) -> bool:
        return is_certain([int(vote * ONE_VOTE) for vote in votes], remaining)

    assert certain([3.0, 1.0], 2)  # 3 against 3 at most, and of tied answers the first wins
    assert not certain([1.0, 3.0], 2)  # here the other one is first
    assert certain([1.0, 3.25], 2)
    assert not certain([1.75], 2)  # an answer that nobody gave yet can have 2
    assert certain([2.0], 2)
    assert not certain([], 1)
    assert not certain([0.0, 0.0], 1)


def test_what_counts_as_a_vote() -> None:
    # 4: 1 (clamped) + 0.25; 5: 0 (clamped); no answer: nothing.
    votes = answer_votes(["5", "4", None, "4"], [-2.0, 3.0, 0.9, 0.25])
    assert votes == [0, ONE_VOTE + ONE_VOTE // 4]
    assert answer_votes([], []) == []


def integral(first: float, second: float) -> float:
    """P(p > 1/2) for p of Beta(first + 1, second + 1), by Simpson's rule on both halves."""

    def area(low: float, high: float, steps: int = 4000) -> float:
        width = (high - low) / steps
        heights = [(low + i * width) ** first * (1 - low - i * width) ** second for i in range(steps + 1)]
        return width / 3 * (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]))

    above, below = area(0.5, 1.0), area(0.0, 0.5)
    return above / (above + below)


@pytest.mark.parametrize("votes", [(3.0, 2.0), (7.5, 2.25), (10.0, 9.5), (1.5, 1.0), (31.0, 4.0), (120.0, 95.5)])
def test_the_probability_is_that_of_a_beta_distribution(votes: tuple[float, float]) -> None:
    found = lead_probability([int(vote * ONE_VOTE) for vote in votes])
    assert found == pytest.approx(integral(*votes), abs=1e-7)


def test_the_probability_by_hand() -> None:
    def probability(*votes: float) -> float:
        return lead_probability([int(vote * ONE_VOTE) for vote in votes])

    # Alone, p has the density (v + 1) p^v: 1 - 2^-(v + 1).
    assert probability(4.0) == pytest.approx(1 - 2**-5, abs=1e-12)
    assert probability(0.5) == pytest.approx(1 - 2**-1.5, abs=1e-12)
    # With whole votes it is a binomial sum: P(at most v_1 heads in v_1 + v_2 + 1 throws of a coin).
    assert probability(2.0, 5.0) == pytest.approx(sum(math.comb(8, k) for k in range(6)) / 2**8, abs=1e-12)
    assert probability(1.0, 5.0, 2.0, 0.0) == probability(5.0, 2.0)  # the two best alone
    assert probability() == probability(0.0) == probability(0.0, 0.0) == pytest.approx(0.5, abs=1e-12)
    assert probability(3.25, 3.25) == pytest.approx(0.5, abs=1e-12)
    assert probability(5000.0, 10.0) == pytest.approx(1.0, abs=1e-12)
    assert probability(1000.0, 990.0) < 0.6


def test_reasons() -> None:
    # 3 votes alone: 1 - 2^-4 = 0.9375.
    answers: Answers = ["1", "1", "1", "2"]
    scores = [1.0, 1.0, 1.0, 0.0]
    assert EarlyStop(confidence=0.93).reason(answers, scores, 3) == "certain"
    assert EarlyStop(confidence=0.93).reason(answers, scores, 4) == "confidence"
    assert EarlyStop(confidence=0.94).reason(answers, scores, 4) is None
    assert EarlyStop(confidence=0.93, certain=False).reason(answers, scores, 3) == "confidence"
    assert EarlyStop().reason(answers, scores, 4) is None
    assert EarlyStop(confidence=0.51).reason(["1"] * 9, [0.0] * 9, 1) is None  # scores of 0 say nothing


def test_settings_that_are_refused() -> None:
    with pytest.raises(UserError, match=r"stop\.batch is 0, and must be at least 1"):
        EarlyStop(batch=0)
    for confidence in (0.5, 1.0, 95.0, math.nan):
        with pytest.raises(UserError, match=r"stop\.confidence is .*, and must be above 0\.5 and below 1"):
            EarlyStop(confidence=confidence)
    with pytest.raises(UserError, match=r"stop has no rule: set stop\.confidence or stop\.certain"):
        EarlyStop(certain=False)


class Between(AdditiveRule):
    """Adds the score to its answer, between two bounds."""

    name = "between"

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most

    def votes(self, candidates: Candidates) -> Tensor:
        return (candidates.self_rewards.double().clamp(self.least, self.most) * ONE_VOTE).long()


@pytest.mark.parametrize(("least", "most"), [(-1.0, 1.0), (-2.0, 0.5), (-0.5, 2.0), (0.0, 1.0)])
def test_certain_is_exact_where_votes_may_be_negative(least: float, most: float) -> None:
    rule, rng = Between(least, most), random.Random(2)
    ends = list(itertools.product(["a", "b", "new"], [least, most]))
    seen = {True: 0, False: 0}

    def chosen(answers: Answers, scores: list[float]) -> str | None:
        totals: dict[str | None, float] = {}
        for answer, score in zip(answers, scores, strict=True):
            totals[answer] = totals.get(answer, 0.0) + min(max(score, least), most)
        return max(totals, key=totals.__getitem__)

    for _ in range(200):
        answers: Answers = rng.choices(["a", "b"], [4, 1], k=rng.randint(1, 6))
        scores = rng.choices([least, least / 2, most / 2, most, most], k=len(answers))
        remaining = rng.randint(1, 3)
        now = chosen(answers, scores)
        kept = all(
            chosen([*answers, *(end[0] for end in more)], [*scores, *(end[1] for end in more)]) == now
            for more in itertools.product(ends, repeat=remaining)
        )
        votes = answer_votes(answers, scores, rule)
        if any(votes) or least < 0:  # without any votes all that have an answer count one
            assert is_certain(votes, remaining, least, most) == kept, (answers, scores, remaining)
            seen[kept] += 1
    assert min(seen.values()) > 5


def test_log_odds_by_hand() -> None:
    def probability(*votes: float) -> float:
        return odds_probability([round(vote * ONE_VOTE) for vote in votes])

    # exp(ln 3) to 1; the second best counts, and an answer that nobody gave stands at 0.
    assert probability(math.log(3)) == pytest.approx(0.75)
    assert probability(2.0, math.log(3) + 2.0, 1.0) == pytest.approx(0.75)
    assert probability(math.log(3), -5.0) == pytest.approx(0.75)
    assert probability(-math.log(3)) == probability(-7.0, -math.log(3)) == pytest.approx(0.25)
    assert probability() == 0.5
    assert probability(900.0) == 1.0


def test_reasons_by_a_rule() -> None:
    # logit(0.9) = 2.197 each: 4.394 for 1. Plain votes: 1 - 2^-3 = 0.875; as evidence: 1 / (1 + exp(-4.394)) = 0.988.
    answers: Answers = ["1", "1"]
    stop = EarlyStop(confidence=0.89)
    assert stop.reason(answers, [0.9, 0.9], 6) is None
    assert stop.reason(answers, [0.9, 0.9], 6, Majority()) is None
    assert stop.reason(answers, [0.9, 0.9], 6, LogOddsVote()) == "confidence"
    assert stop.reason(answers, [0.9, 0.9], 1, LogOddsVote()) == "certain"  # 4 are less than 4.394
    assert stop.reason(answers, [0.9, 0.9], 2, Majority()) == "certain"
    # A solution can add or take at most ln 3, by the ends of the curve: not 4, and two of three are enough.
    rule = CalibratedVote(curve=[(0.0, 0.25), (1.0, 0.75)])
    assert (rule.least, rule.most) == pytest.approx((-math.log(3), math.log(3)))
    assert stop.reason(answers, [1.0, 1.0], 2, rule) == "certain"
    assert stop.reason(answers, [1.0, 1.0], 3, rule) == "confidence"  # 9 to 1
    assert EarlyStop().reason(answers, [1.0, 1.0], 3, rule) is None
