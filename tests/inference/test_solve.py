"""Rounds of solutions to several problems, with solutions that are written down here."""

import pytest

from laser_lightning.errors import UserError
from laser_lightning.inference.early_stop import EarlyStop
from laser_lightning.inference.solve import Solution, Solved, solve
from laser_lightning.inference.vote import vote
from laser_lightning.metrics import Majority, VoteRule, WeightedMajority
from laser_lightning.metrics.votes import BestRule, MeanScoreVote
from laser_lightning.verifiers import Verifier, VerifierPool


class Numbers(Verifier):
    """Answers are numbers, whose spellings only ``equivalent`` sees through."""

    def extract(self, response: str) -> str | None:
        return response or None

    def equivalent(self, answer: str, gold: str) -> bool:
        return float(answer) == float(gold)


def written(texts: str, score: float = 1.0) -> list[Solution]:
    """Solutions from words, ``-`` for one without an answer."""
    return [Solution(text.strip("-"), [1], True, -6.0, score, True) for text in texts.split()]


class Drawn:
    """Hands out solutions in their order, and remembers what it was asked for."""

    def __init__(self, *problems: list[Solution]) -> None:
        self.problems = problems
        self.handed = [0] * len(problems)
        self.rounds: list[tuple[list[int], int]] = []

    def __call__(self, rows: list[int], count: int) -> list[list[Solution]]:
        self.rounds.append((rows, count))
        groups = [self.problems[row][self.handed[row] : self.handed[row] + count] for row in rows]
        for row in rows:
            self.handed[row] += count
        return groups


def run(drawn: Drawn, n: int, stop: EarlyStop | None) -> list[Solved]:
    return solve(drawn, len(drawn.problems), n, stop, VerifierPool(Numbers(), workers=0))


PROBLEMS = (
    written("1 1.0 1.00 1 1 1 1 1"),  # 3 votes after 3 solutions, 6 after 6: certain with 2 to come
    written("2 3 2 3 2 3 2 4"),
    written("5 5.0 5 5 6 6 6 6", score=0.25),
    written("- - - - - - - -"),
)


def test_decided_problems_leave() -> None:
    drawn = Drawn(*PROBLEMS)
    solved = run(drawn, 8, EarlyStop(batch=3))
    # The last round has the 2 that are left. Of 8, 6 votes against none are enough, 3 are not.
    assert drawn.rounds == [([0, 1, 2, 3], 3), ([0, 1, 2, 3], 3), ([1, 2, 3], 2)]
    assert [len(result.solutions) for result in solved] == [6, 8, 8, 8]
    assert [result.stopped for result in solved] == ["certain", None, None, None]
    assert [result.vote.weighted_majority for result in solved] == ["1", "2", "5", None]
    for result, solutions in zip(solved, PROBLEMS, strict=True):
        assert result.solutions == solutions[: len(result.solutions)]
        cast = vote([s.text for s in result.solutions], [s.self_reward for s in result.solutions], pool())
        assert result.vote == cast


def pool() -> VerifierPool:
    return VerifierPool(Numbers(), workers=0)


def test_confidence() -> None:
    drawn = Drawn(*PROBLEMS)
    solved = run(drawn, 8, EarlyStop(batch=2, confidence=0.85, certain=False))
    # Alone, V votes are ahead with 1 - 2^-(V + 1): 0.875 for 2; 0.75 for 1, which is four scores of 0.25. 2 and 3 tie.
    assert drawn.rounds == [([0, 1, 2, 3], 2), ([1, 2, 3], 2), ([1, 2, 3], 2), ([1, 2, 3], 2)]
    assert [result.stopped for result in solved] == ["confidence", None, None, None]


def test_all_decided_at_once() -> None:
    drawn = Drawn(PROBLEMS[0], PROBLEMS[0])
    assert [len(result.solutions) for result in run(drawn, 8, EarlyStop(batch=4))] == [4, 4]
    assert drawn.rounds == [([0, 1], 4)]  # 4 against 4 at most, and the first wins


@pytest.mark.parametrize("stop", [None, EarlyStop(batch=8), EarlyStop(batch=100)])
def test_one_round_of_all(stop: EarlyStop | None) -> None:
    drawn = Drawn(*PROBLEMS)
    solved = run(drawn, 8, stop)
    assert drawn.rounds == [([0, 1, 2, 3], 8)]
    assert all(result.stopped is None and len(result.solutions) == 8 for result in solved)


def test_a_rule_of_the_callers() -> None:
    def solved(rule: VoteRule, stop: EarlyStop | None) -> list[str | None]:
        found = solve(Drawn(*PROBLEMS), len(PROBLEMS), 8, stop, pool(), rule)
        return [result.vote.chosen for result in found]

    assert solved(Majority(), None) == ["1", "2", "5", None]
    assert solved(WeightedMajority(), EarlyStop(batch=3)) == ["1", "2", "5", None]
    assert solved(Majority(), EarlyStop(batch=3)) == ["1", "2", "5", None]
    with pytest.raises(UserError, match="the rule 'mean_score' chooses by no such sum: draw all solutions"):
        solved(MeanScoreVote(), EarlyStop())
    # Nothing was learned, so that the first rule decides.
    with pytest.raises(UserError, match="the rule 'best_rule', which decides by MeanScoreVote, chooses by no such sum"):
        solved(BestRule([MeanScoreVote(), Majority()]), EarlyStop())


def test_a_stop_looks_at_the_vote_of_the_rule() -> None:
    # 5 four times with 0.25 each, then 6 four times: of 8, five plain votes would be enough, and four are if they are
    # the first. Weighted, the four that are to come could have four votes.
    drawn = Drawn(PROBLEMS[2])
    (result,) = solve(drawn, 1, 8, EarlyStop(batch=4), pool(), Majority())
    assert (len(result.solutions), result.stopped, result.vote.chosen) == (4, "certain", "5")
    drawn = Drawn(PROBLEMS[2])
    (result,) = solve(drawn, 1, 8, EarlyStop(batch=4), pool(), BestRule([WeightedMajority(), Majority()]))
    assert (len(result.solutions), result.stopped, result.vote.chosen) == (8, None, "5")


def test_no_problems() -> None:
    assert run(Drawn(), 8, EarlyStop()) == run(Drawn(), 8, None) == []
