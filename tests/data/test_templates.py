from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from laser_lightning.data.templates import PromptTemplate
from laser_lightning.errors import UserError


def decode(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def test_by_default_the_prompt_is_the_problem(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt, ids = PromptTemplate().encode("1+2", tokenizer)
    assert prompt == "1+2"
    assert decode(tokenizer, ids) == "1+2"


def test_other_braces_are_left_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    template = PromptTemplate(r"Q: {problem} Answer in \boxed{}. {0}")
    assert template.render(r"\frac{1}{2}", tokenizer) == r"Q: \frac{1}{2} Answer in \boxed{}. {0}"


def test_problem_that_names_the_place_is_not_expanded_again(tokenizer: PreTrainedTokenizerFast) -> None:
    assert PromptTemplate("<{problem}>").render("a {problem} b", tokenizer) == "<a {problem} b>"


def test_chat_puts_the_templated_problem_into_the_users_message(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt, ids = PromptTemplate("Q: {problem}", chat=True).encode("1+2", tokenizer)
    assert prompt == "<bos>[user]Q: 1+2\n[assistant]"
    assert decode(tokenizer, ids) == prompt


def test_system_message_comes_first(tokenizer: PreTrainedTokenizerFast) -> None:
    template = PromptTemplate(chat=True, system="Be brief.")
    assert template.render("1+2", tokenizer) == "<bos>[system]Be brief.\n[user]1+2\n[assistant]"


@pytest.mark.parametrize(
    ("chat", "expected"),
    [(False, "<bos>1+2"), (True, "<bos>[user]1+2\n[assistant]")],
)
def test_special_tokens_come_once_and_no_eos_at_the_end(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
    tokenizer: PreTrainedTokenizerFast,
    chat: bool,
    expected: str,
) -> None:
    framing = make_tokenizer("<bos> $A <eos>", chat_template=tokenizer.chat_template)
    # the tokenizer on its own does add both
    assert decode(framing, framing("1+2")["input_ids"]) == "<bos>1+2<eos>"
    _, ids = PromptTemplate(chat=chat).encode("1+2", framing)
    assert decode(framing, ids) == expected


def test_prompt_without_tokens_is_refused(make_tokenizer: Callable[..., PreTrainedTokenizerFast]) -> None:
    with pytest.raises(UserError, match="has no tokens"):
        PromptTemplate().encode("", make_tokenizer("$A <eos>"))


def test_template_without_a_place_is_refused() -> None:
    with pytest.raises(UserError, match=r"template 'Q: ' has no \{problem\}"):
        PromptTemplate("Q: ")


def test_system_without_chat_is_refused() -> None:
    with pytest.raises(UserError, match=r"template\.chat is not"):
        PromptTemplate(system="Be brief.")


def test_chat_without_a_chat_template_is_refused(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast],
) -> None:
    with pytest.raises(UserError, match="the tokenizer has no chat template"):
        PromptTemplate(chat=True).render("1+2", make_tokenizer())


# ------------------------------------------- messages in front of the problem, and templates that refuse theirs

FRONT = [{"role": "user", "content": "0+0"}, {"role": "assistant", "content": "0"}]


def test_messages_in_front_of_the_problem_come_first(tokenizer: PreTrainedTokenizerFast) -> None:
    template = PromptTemplate("Q: {problem}", chat=True, system="S")
    assert template.encode("1+2", tokenizer, FRONT)[0] == (
        "<bos>[system]S\n[user]0+0\n[assistant]0\n[user]Q: 1+2\n[assistant]"
    )


def test_messages_in_front_need_chat_and_one_system_message(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"set template\.chat: true"):
        PromptTemplate().render("1+2", tokenizer, FRONT)
    with pytest.raises(UserError, match=r"leave template\.system empty"):
        PromptTemplate(chat=True, system="S").render("1+2", tokenizer, [{"role": "system", "content": "T"}])


@pytest.mark.parametrize(
    ("chat_template", "reason"),
    [
        ("{{ raise_exception('System role not supported') }}", "TemplateError: System role not supported"),
        ("{{ messages[0]['content'] + 1 }}", "TypeError: "),
        ("{{ messages[5]['content']['x'] }}", "UndefinedError: "),
        ("{% if %}", "TemplateSyntaxError: "),
    ],
)
def test_a_chat_template_that_raises_is_a_sentence(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast], chat_template: str, reason: str
) -> None:
    template = PromptTemplate(chat=True, system="S")
    with pytest.raises(UserError, match=rf"chat template refuses the messages \(system, user\): {reason}") as error:
        template.render("1+2", make_tokenizer(chat_template=chat_template))
    assert "write it into the user's message" in str(error.value)
    with pytest.raises(UserError) as error:
        PromptTemplate(chat=True).render("1+2", make_tokenizer(chat_template="{% if %}"))
    assert "system" not in str(error.value)  # there is none to blame


def test_bos_in_the_template_and_from_the_tokenizer_comes_once_and_is_said(
    make_tokenizer: Callable[..., PreTrainedTokenizerFast], tokenizer: PreTrainedTokenizerFast
) -> None:
    adds = make_tokenizer("<bos> $A")
    with pytest.warns(UserWarning, match="begins with '<bos>', which the tokenizer adds too"):
        _, ids = PromptTemplate("<bos>{problem}").encode("1", adds)
    assert decode(adds, ids) == "<bos>1"
    # of one of the two alone nothing is taken, and nothing is said
    assert decode(adds, PromptTemplate().encode("1", adds)[1]) == "<bos>1"
    assert decode(tokenizer, PromptTemplate("<bos>{problem}").encode("1", tokenizer)[1]) == "<bos>1"
