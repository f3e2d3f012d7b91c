"""Several reward functions added up, and what a verifier may see."""

import pickle
from typing import Any

import pytest

from laser_lightning.verifiers import (
    ExactVerifier,
    FunctionVerifier,
    MathVerifier,
    MixedVerifier,
    Submission,
    Verification,
    VerifierPool,
    WeightedReward,
    WeightedRewards,
)
from laser_lightning.verifiers.judge import Judge


def words(response: str, gold: str) -> float:
    return len(response.split()) / 10


def hint(submission: Submission) -> float:
    return float(submission.column("extra.hint") in submission.response)


def fails(submission: Submission) -> float:
    raise RuntimeError("no")


def hangs(submission: Submission) -> float:
    while True:
        pass


def rewards(target: str = "right", **more: Any) -> WeightedRewards:
    functions = {"words": (words, -1.0), "hint": (hint, 0.5)} | more
    weighted = {name: WeightedReward(FunctionVerifier(one), weight) for name, (one, weight) in functions.items()}
    return WeightedRewards({"right": WeightedReward(MathVerifier(), 2.0), **weighted}, target)


ROW = {"extra": {"hint": "half"}}


def test_weighted_sum() -> None:
    found = rewards().verify(Submission(r"half is \boxed{\frac{1}{2}}", "0.5", row=ROW))
    # 2 * 1 - 3 / 10 + 0.5 * 1
    assert found == Verification(1.0, "1/2", None, {"right": 1.0, "words": 0.3, "hint": 1.0}, 2.2)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_function_that_fails_adds_nothing(workers: int) -> None:
    verifier = rewards(broken=(fails, 7.0))
    with VerifierPool(verifier, workers, timeout_seconds=20.0) as pool:
        found, wrong = pool.verify([Submission(text, "0.5", row=ROW) for text in (r"\boxed{0.5}", r"\boxed{2}")])
        assert pool.equivalent([("1/2", "0.5"), ("1/2", "2")]) == [True, False]
        assert pool.answers([r"\boxed{0.5}"]) == ["1/2"]
    said = {"right": 1.0, "words": 0.1, "hint": 0.0, "broken": None}
    assert found == Verification(1.0, "1/2", "broken: RuntimeError: no", said, 1.9)
    assert (wrong.reward, wrong.policy_reward) == (0.0, -0.1)


def test_one_that_hangs_costs_the_response() -> None:
    with VerifierPool(rewards(hangs=(hangs, 1.0)), workers=1, timeout_seconds=1.0) as pool:
        (found,) = pool.verify([Submission(r"\boxed{0.5}", "0.5", row=ROW)])
    said = dict.fromkeys(("right", "words", "hint", "hangs"))
    assert found == Verification(0.0, None, "timed out after 1 s", said)


def test_rows_are_told_apart() -> None:
    other = {"extra": {"hint": "third"}}
    with VerifierPool(FunctionVerifier(hint), workers=1) as pool:
        found = pool.verify([Submission("half", "", row=row) for row in (ROW, other, ROW)])
    assert [one.reward for one in found] == [1.0, 0.0, 1.0]


def test_among_mixed_verifiers() -> None:
    mixed = MixedVerifier({"sum": rewards(), "text": ExactVerifier()}, default="text")
    assert mixed.reward_names == ("right", "words", "hint")
    judge = Judge(mixed)
    found = judge.verify(*Submission(r"\boxed{2}", "2", "sum", row=ROW))
    assert (found.reward, found.policy_reward) == (1.0, 1.9)
    assert judge.verify(*Submission("a", "a", row=ROW)) == Verification(1.0, "a")


def test_the_target_stands_for_all() -> None:
    verifier = rewards("words")
    assert verifier.verify(Submission(r"\boxed{2}", "2", row=ROW)).reward == 0.1
    assert rewards().canonical(r"\frac{1}{2}") == "1/2"
    assert rewards().named(None).reward_names == ("right", "words", "hint")
    with pytest.raises(ValueError, match="gold answer"):
        rewards().check_gold("")


@pytest.mark.parametrize(
    ("given", "target", "message"),
    [
        ({"a": WeightedReward(ExactVerifier())}, "b", "`target` is 'b', and the rewards are a"),
        ({}, "b", "none at all"),
        ({"a/b": WeightedReward(ExactVerifier())}, "a/b", "a name consists of"),
        ({"a": WeightedReward(MixedVerifier({"x": ExactVerifier()}))}, "a", "put WeightedRewards into a MixedVerifier"),
        ({"a": WeightedReward(ExactVerifier(), float("nan"))}, "a", "must be a finite number"),
    ],
)
def test_what_is_refused(given: dict[str, WeightedReward], target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedRewards(given, target)


def test_columns_by_name_and_by_path() -> None:
    submission = Submission("", "", row={"a.b": 1, "a": {"b": 2, "c": {"d": 3}}})
    assert (submission.column("a.b"), submission.column("a.c.d")) == (1, 3)
    with pytest.raises(ValueError, match=r"no column 'a\.x'; it has a\.b, a"):
        submission.column("a.x")
    assert pickle.loads(pickle.dumps(Submission("r", "g"))) == Submission("r", "g")


class Handmade(ExactVerifier):
    def verify(self, submission: Submission) -> Any:
        return {"none": 1.0, "nan": Verification(float("nan"), None), "int": Verification(3, "x")}[submission.response]


def test_what_a_verifier_of_ones_own_may_return() -> None:
    judge = Judge(Handmade())
    assert judge.verify("int", "") == Verification(3.0, "x")
    assert judge.verify("none", "").error == "TypeError: `verify` must return a Verification, not a float"
    assert judge.verify("nan", "").error == "ValueError: the reward must be a finite number (of float32), not nan"
