"""Rules that go by scores: values worked out by hand, and what is refused."""

import math
from typing import Any

import pytest
import torch

from laser_lightning.errors import UserError
from laser_lightning.metrics.votes import (
    AdditiveRule,
    BestRule,
    BestScored,
    CalibratedVote,
    Candidates,
    LogOddsVote,
    Majority,
    MeanScoreVote,
    PessimisticVote,
    VoteRule,
    WeightedMajority,
)
from laser_lightning.metrics.votes.candidates import ONE_VOTE


def candidates(answers: list[int], scores: list[float], verdicts: list[list[float]] | None = None) -> Candidates:
    """Solutions of one problem."""
    own = torch.tensor(scores)
    return Candidates(
        problems=1,
        problem=torch.zeros(len(answers), dtype=torch.int64),
        answer_ids=torch.tensor(answers),
        self_rewards=own,
        scores=own[:, None] if verdicts is None else torch.tensor(verdicts),
        finished=torch.ones(len(answers), dtype=torch.bool),
    )


# Answer 5 twice (0.9, 0.7: mean 0.8), 6 once (0.85), 7 four times (0.3, 0.3, 0.3, 0.4: mean 0.325), one without.
MANY = candidates([5, 5, 6, 7, 7, 7, 7, -1], [0.9, 0.7, 0.85, 0.3, 0.3, 0.3, 0.4, 1.0])


def winner(rule: VoteRule, solutions: Candidates) -> set[int]:
    return set(solutions.answer_ids[rule.winners(solutions)].tolist())


def test_mean_score_by_hand() -> None:
    assert MeanScoreVote().standings(MANY).tolist()[:7] == pytest.approx([0.8, 0.8, 0.85, *[0.325] * 4])
    assert winner(MeanScoreVote(), MANY) == {6}
    # Clamped: 3 counts as 1, and -2 as 0.
    assert MeanScoreVote().standings(candidates([5, 5], [3.0, -2.0])).tolist() == [0.5, 0.5]


def test_pessimistic_by_hand() -> None:
    # ln 8 = 2.0794 over all eight solutions, the one without an answer included; N_a + 1 is 3, 2 and 5.
    expected = [0.8 - 0.2 * 2.079442 / 3] * 2 + [0.85 - 0.2 * 2.079442 / 2] + [0.325 - 0.2 * 2.079442 / 5] * 4
    assert PessimisticVote(0.2).standings(MANY).tolist()[:7] == pytest.approx(expected, abs=1e-6)
    assert winner(PessimisticVote(0.2), MANY) == {5}  # 0.661 against 0.642
    assert winner(PessimisticVote(0.0), MANY) == {6}
    # Alone, an answer costs nothing: ln 1 = 0.
    assert PessimisticVote(1.0).standings(candidates([5], [0.25])).tolist() == [0.25]


def test_pessimistic_counts_verdicts() -> None:
    # Five verdicts in all, two and two on the solutions of 5 and one on 6: N_a M + 1 is 5 and 2.
    verified = candidates([5, 5, 6], [0.5, 1.0, 1.0], [[1.0, 0.0], [1.0, 1.0], [1.0, math.nan]])
    expected = [0.75 - math.log(5) / 5, 0.75 - math.log(5) / 5, 1.0 - math.log(5) / 2]
    assert PessimisticVote(1.0).standings(verified).tolist() == pytest.approx(expected)


def test_log_odds_by_hand() -> None:
    # logit(0.9) = 2.1972, logit(0.7) = 0.8473, logit(0.85) = 1.7346, logit(0.3) = -0.8473, logit(0.4) = -0.4055.
    sums = LogOddsVote().standings(MANY).double() / ONE_VOTE
    assert sums.tolist()[:7] == pytest.approx([3.04452, 3.04452, 1.73460, *[-2.94736] * 4], abs=1e-5)
    assert winner(LogOddsVote(), MANY) == {5}
    # 0.9 twice against 0.99 once: 4.394 and 4.595, which the limit makes 4.
    two_or_one = candidates([5, 5, 6], [0.9, 0.9, 0.99])
    assert winner(LogOddsVote(), two_or_one) == {5}
    assert winner(LogOddsVote(limit=10.0), two_or_one) == {6}
    # 0, 1 and what lies beyond are the limit.
    ends = LogOddsVote(2.0).standings(candidates([5, 6, 7, 8], [0.0, 1.0, 9.0, -torch.inf])).double() / ONE_VOTE
    assert ends.tolist() == [-2.0, 2.0, 2.0, -2.0]


def test_equal_evidence_ties() -> None:
    # The same scores in another order: a sum of floats would depend on it.
    scores = [0.1, 0.7, 0.9, 0.35]
    tied = candidates([5] * 4 + [6] * 4, scores + scores[::-1])
    for rule in (LogOddsVote(), MeanScoreVote(), PessimisticVote(), CalibratedVote()):
        assert winner(rule, tied) == {5, 6}


def test_a_given_curve_by_hand() -> None:
    # Scores between 0.25 and 0.5 stand for 0.2 to 0.6; below and above the curve is level.
    rule = CalibratedVote(curve=[(0.25, 0.2), (0.5, 0.6)])
    found = rule.probabilities(candidates([5] * 5, [-3.0, 0.25, 0.375, 0.5, 7.0]))
    assert found.tolist() == pytest.approx([0.2, 0.2, 0.4, 0.6, 0.6])
    assert not rule.learns
    # A curve of one point says the same of every score.
    assert CalibratedVote(curve=[(0.5, 0.75)]).probabilities(MANY).tolist() == [0.75] * 8
    # Calibrated, 0.9 is worth 0.4: then two of them count against their answer.
    assert winner(CalibratedVote(curve=[(0.5, 0.3), (0.9, 0.4)]), candidates([5, 5, 6], [0.9, 0.9, 0.9])) == {6}


EVERY_RULE = [
    Majority(),
    WeightedMajority(),
    BestScored(),
    MeanScoreVote(),
    PessimisticVote(),
    LogOddsVote(),
    CalibratedVote(),
    BestRule(),
]


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.name)
def test_a_score_that_is_no_number_is_refused_alike(rule: VoteRule) -> None:
    with pytest.raises(UserError, match=r"self-reward of solution 1 is NaN \(1 of 3 solutions\), .*: give it a number"):
        rule.standings(candidates([5, 6, 5], [0.5, math.nan, 0.25]))
    # Infinite ones, and absent scores among several, are none of them.
    assert rule.standings(candidates([5, 6, 5], [math.inf, -math.inf, 0.25], [[1.0], [math.nan], [0.5]])).shape == (3,)


@pytest.mark.parametrize(("rule", "expected"), [(Majority(), [1] * 3), (WeightedMajority(), [0.5, 0.25, 0.0])])
def test_what_each_solution_adds(rule: AdditiveRule, expected: list[float]) -> None:
    assert (rule.votes(candidates([5, 6, 5], [0.5, 0.25, -1.0])) / ONE_VOTE).tolist() == expected


def test_only_the_majority_needs_no_scores() -> None:
    assert [rule.uses_scores for rule in EVERY_RULE] == [False] + [True] * 7


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (PessimisticVote, {"alpha": -0.1}, r"alpha of PessimisticVote is -0\.1, and must be a number from 0 on"),
        (PessimisticVote, {"alpha": math.nan}, "alpha of PessimisticVote is nan"),
        (LogOddsVote, {"limit": 0.0}, r"limit of LogOddsVote is 0\.0, and must be above 0"),
        (LogOddsVote, {"limit": math.inf}, "limit of LogOddsVote is inf"),
        (CalibratedVote, {"limit": -1.0}, "limit of CalibratedVote is -1"),
        (CalibratedVote, {"rounds": 0}, "rounds of CalibratedVote is 0, and must be at least 1"),
        (CalibratedVote, {"curve": []}, r"curve of CalibratedVote must be points \(score, probability\)"),
        (CalibratedVote, {"curve": [(0.0, 0.5), (0.0, 0.6)]}, "with rising scores"),
        (CalibratedVote, {"curve": [(0.0, 0.5), (1.0, 0.4)]}, "that do not fall"),
        (CalibratedVote, {"curve": [(0.0, 0.5), (1.0, 1.1)]}, "between 0 and 1"),
        (BestRule, {"rounds": 0}, "rounds of BestRule is 0"),
        (BestRule, {"rules": []}, "rules of BestRule is empty: give it vote rules"),
        (BestRule, {"rules": [BestScored()]}, "rules of BestRule has 'best_of', and must be rules that choose answers"),
        (BestRule, {"rules": [Majority(), BestRule()]}, "rules of BestRule has 'best_rule'"),
    ],
)
def test_wrong_arguments_are_refused(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**arguments)
