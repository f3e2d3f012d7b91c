"""The question whether a solution is correct, and the verdict in the response to it."""

import pytest

from laser_lightning.errors import UserError
from laser_lightning.modules.verification_prompts import VerificationPrompts
from laser_lightning.policy.character_tokenizer import character_tokenizer

TOKENIZER = character_tokenizer()


def text(prompts: VerificationPrompts, problem: str, response: str) -> str:
    return TOKENIZER.decode(prompts.encode(problem, response, TOKENIZER))


def test_problem_and_response_are_filled_in_once() -> None:
    prompts = VerificationPrompts(template=r"{problem} \frac{1}{2} {response}?")
    assert text(prompts, "say {response}", "a {problem} \\1") == r"say {response} \frac{1}{2} a {problem} \1?"


def test_a_chat_has_the_template_of_the_tokenizer() -> None:
    prompts = VerificationPrompts(template="{problem}={response}", chat=True, system="Be strict.")
    assert text(prompts, "1+2", "#3") == "Be strict.\n1+2=#3="


def test_the_first_match_is_the_verdict() -> None:
    prompts = VerificationPrompts()
    assert prompts.verdict(r"so \boxed{1}, no, \boxed{0}") is True
    assert prompts.verdict(r"so \boxed{0}") is False
    assert prompts.verdict("1") is None
    words = VerificationPrompts(verdict_pattern="^(y|n|m)", correct_verdict="y", incorrect_verdict="n")
    # A match that is neither of the verdicts is none.
    assert [words.verdict(response) for response in ("yn", "n", "my", " y", "")] == [True, False, None, None, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "{problem}?"}, "has no {response}: write it where the response belongs"),
        ({"template": "{response}?"}, "has no {problem}"),
        ({"verdict_pattern": "([01]"}, "is no regular expression"),
        ({"verdict_pattern": "[01]"}, "has 0 groups"),
        ({"verdict_pattern": "(a)|(b)"}, "has 2 groups"),
        ({"correct_verdict": "0"}, "are both '0'"),
        ({"max_response_tokens": 0}, "max_response_tokens is 0"),
        ({"share": 0.0}, "share is 0.0"),
        ({"share": 1.5}, "share is 1.5"),
        ({"samples": 0}, "samples is 0, and must be at least 1"),
        ({"system": "Be strict."}, "set chat: true"),
    ],
)
def test_refusals(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        VerificationPrompts(**options)  # type: ignore[arg-type]
    assert message in str(error.value)
