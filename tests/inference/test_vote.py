"""Votes of the solutions of one problem, worked out by hand."""

from pathlib import Path

import pytest

from laser_lightning.errors import UserError
from laser_lightning.inference.vote import Vote, vote
from laser_lightning.metrics import BestScored
from laser_lightning.verifiers import ExactVerifier, MathVerifier, MixedVerifier, Verifier, VerifierPool


class Numbers(Verifier):
    """Answers are numbers, whose spellings only ``equivalent`` sees through."""

    def extract(self, response: str) -> str | None:
        if response == "broken":
            raise RuntimeError("no verdict")
        return response or None

    def equivalent(self, answer: str, gold: str) -> bool:
        return float(answer) == float(gold)


def cast(texts: list[str], self_rewards: list[float], verifier: Verifier | None = None) -> Vote:
    return vote(texts, self_rewards, VerifierPool(verifier or Numbers(), workers=0))


def test_by_hand() -> None:
    # Plain: 4 three times, 5 twice, 6 once. Clamped sums: 4 has 0.1 + 0.2 + 0, 5 has 0.7 + 0.5, 6 has 1.
    texts = ["4", "5", "4.0", "6", "4", "5.00"]
    found = cast(texts, [0.1, 0.7, 0.2, 9.0, -3.0, 0.5])
    assert found == Vote(["4", "5", "4", "6", "4", "5"], majority="4", weighted_majority="5", best="6", best_index=3)


def test_only_answers_vote() -> None:
    # Two have no answer, and on one the verifier fails; these score highest, and cannot win.
    found = cast(["", "broken", "", "7"], [2.0, 1.0, 0.9, 0.1])
    assert found == Vote([None, None, None, "7"], "7", "7", best="7", best_index=3)
    assert cast(["", ""], [0.3, 0.4]) == Vote([None, None], None, None, None, 1)


def test_without_evidence_the_plain_majority_decides_and_of_ties_the_first() -> None:
    assert cast(["8", "9", "9"], [-1.0, -2.0, 0.0]) == Vote(["8", "9", "9"], "9", "9", "9", 2)
    assert cast(["3", "2", "2", "3"], [0.5, 0.5, 0.5, 0.5]) == Vote(["3", "2", "2", "3"], "3", "3", "3", 0)


def test_the_verifiers_of_the_project() -> None:
    math = cast([r"\boxed{\frac12} no, \boxed{1/2}", r"\boxed{0.5}", r"\boxed{3}"], [0.2, 0.3, 0.4], MathVerifier())
    assert math == Vote(["1/2", "1/2", "3"], "1/2", "1/2", "3", 2)
    exact = cast(["a #4", "#4", "#4.0"], [0.1, 0.1, 0.9], ExactVerifier(r"#(\S+)$"))
    assert exact == Vote(["4", "4", "4.0"], "4", "4.0", "4.0", 2)


def test_a_rule_of_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "metrics")
    from vote_rules import MeanOfScores  # type: ignore[import-not-found]

    pool, texts, scores = VerifierPool(Numbers(), workers=0), ["4", "5", "4.0", "6"], [0.9, 0.5, 0.2, 0.6]
    # The means are (0.9 + 0.2) / 2, 0.5 and 0.6.
    found = vote(texts, scores, pool, rule=MeanOfScores())
    assert (found.chosen, found.chosen_index) == ("6", 3)
    assert found[:5] == vote(texts, scores, pool)[:5]
    assert vote(texts, scores, pool)[5:] == (None, None)
    # The last one was cut; of 4 and 5 that tie the first is chosen.
    cut = vote(texts, [0.75, 0.5, 0.25, 0.6], pool, rule=MeanOfScores(), finished=[True, True, True, False])
    assert (cut.chosen, cut.chosen_index) == ("4", 0)
    assert vote(["", ""], [0.1, 0.2], pool, rule=MeanOfScores())[5:] == (None, None)
    best = vote(["", "7"], [0.2, 0.1], pool, rule=BestScored())
    assert (best.chosen, best.chosen_index) == (best.best, best.best_index) == ("7", 1)


def test_nothing_to_vote_on() -> None:
    with pytest.raises(UserError, match="A vote needs at least one solution"):
        cast([], [])


def test_a_mixed_verifier_votes_by_the_one_that_is_named() -> None:
    pool = VerifierPool(MixedVerifier({"numbers": Numbers(), "texts": ExactVerifier()}), workers=0)
    texts, self_rewards = ["1.0", "1", "2", "2.0", "1"], [0.1] * 5
    assert vote(texts, self_rewards, pool, "texts").answers == ["1.0", "1", "2", "2.0", "1"]
    assert vote(texts, self_rewards, pool, "numbers").answers == ["1", "1", "2", "2", "1"]
    with pytest.raises(UserError, match="The vote names no verifier"):
        vote(texts, self_rewards, pool)
