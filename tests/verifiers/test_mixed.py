from pathlib import Path

import pytest

from laser_lightning.verifiers import (
    ExactVerifier,
    MathVerifier,
    MixedVerifier,
    MultipleChoiceVerifier,
    Verification,
    Verifier,
    VerifierPool,
)


class HalfCredit(ExactVerifier):
    """Rewards a wrong answer with 0.3."""

    def reward(self, response: str, gold: str) -> float:
        return max(super().reward(response, gold), 0.3)


def mixed(default: str | None = None) -> MixedVerifier:
    return MixedVerifier({"math": MathVerifier(), "choice": MultipleChoiceVerifier(), "half": HalfCredit()}, default)


# By each of the verifiers: 1/2 is 0.5 for math alone, and only the choice finds a letter in the last response.
RESPONSES = [r"\boxed{\frac{1}{2}}", "0.5", "The answer is (B)."]


def test_the_name_chooses_the_verifier() -> None:
    verifier = mixed()
    assert isinstance(verifier.named("math"), MathVerifier)
    assert isinstance(verifier.named("choice"), MultipleChoiceVerifier)
    with pytest.raises(ValueError, match="names the verifier 'maths', which the MixedVerifier does not have"):
        verifier.named("maths")
    with pytest.raises(ValueError, match="names no verifier, and the MixedVerifier has no `default`"):
        verifier.named(None)


def test_without_a_name_the_default_does_everything() -> None:
    verifier = mixed("math")
    assert verifier.named(None) is verifier.verifiers["math"]
    assert verifier.reward(RESPONSES[0], "0.5") == 1.0
    assert (verifier.extract(r"\boxed{5}"), verifier.canonical("0.50")) == ("5", "1/2")
    assert verifier.equivalent("0.5", "1/2")
    assert verifier.explain(RESPONSES[0], "0.5").rule == "equal canonical forms"
    with pytest.raises(ValueError, match="neither a letter nor a digit"):
        verifier.check_gold("?")
    assert mixed("half").reward("2", "3") == 0.3, "a reward of its own is the default's too"


def test_other_verifiers_have_no_names() -> None:
    verifier = MathVerifier()
    assert verifier.named(None) is verifier
    with pytest.raises(ValueError, match="names the verifier 'math', and MathVerifier is not a MixedVerifier"):
        verifier.named("math")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pool_judges_each_pair_by_its_verifier(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)  # where the workers find HalfCredit
    with VerifierPool(mixed("math"), workers) as pool:
        verifications = pool.verify(
            [
                (RESPONSES[0], "0.5"),
                (RESPONSES[0], "0.5", "math"),
                (RESPONSES[1], "1/2", "half"),
                (RESPONSES[1], "0.5", "half"),
                (RESPONSES[2], "B", "choice"),
                (RESPONSES[2], "B", "half"),
                (RESPONSES[2], "B", "unknown"),
            ]
        )
        assert verifications == [
            Verification(1.0, "1/2"),
            Verification(1.0, "1/2"),
            Verification(0.3, "0.5"),
            Verification(1.0, "0.5"),
            Verification(1.0, "B"),
            Verification(0.3, "The answer is (B)."),
            Verification(0.0, None, "ValueError: names the verifier 'unknown', which the MixedVerifier does not have"),
        ]
        # The same pair, alike in canonical form, is equal for one and not for the other: each remembers its own.
        assert pool.equivalent([("x+1", "1+x"), ("x+1", "1+x", "half"), ("x+1", "1+x", "math")]) == [True, False, True]
        assert pool.answers(RESPONSES[2:], "choice") == ["B"]
        assert pool.failures == 1


def test_strings_decide_only_where_they_do_for_all() -> None:
    assert not mixed().canonical_decides
    assert MixedVerifier({"a": ExactVerifier(), "b": MultipleChoiceVerifier()}).canonical_decides


@pytest.mark.parametrize(
    ("verifiers", "default", "message"),
    [
        ({}, None, "`verifiers` is empty"),
        ({"a": ExactVerifier()}, "b", "`default` is 'b', and the verifiers are a"),
        ({"a": MixedVerifier({"b": ExactVerifier()})}, None, "'a' is a MixedVerifier too"),
    ],
)
def test_what_cannot_be_mixed_is_refused(verifiers: dict[str, Verifier], default: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixedVerifier(verifiers, default)
