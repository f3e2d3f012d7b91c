"""A prompt's text as the token ids that a response follows."""

import warnings
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from laser_lightning.errors import UserError


def render_chat(messages: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a conversation, up to where the assistant answers.

    Args:
        messages: with ``role`` and ``content`` each.
        tokenizer: the policy's, with a chat template.

    Raises:
        UserError: the chat template refuses the messages.
    """
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the model's author, and raises what it likes
        roles = ", ".join(message["role"] for message in messages)
        remedy = ""
        if any(message["role"] == "system" for message in messages):
            remedy = " Many templates take no system message: write it into the user's message."
        raise UserError(
            f"The tokenizer's chat template refuses the messages ({roles}): {type(error).__name__}: {error}.{remedy}"
        ) from error
    return str(text)


def encode_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase, add_special_tokens: bool) -> list[int]:
    """The token ids of a prompt.

    An ``<eos>`` that the tokenizer puts at the end is taken off: the response starts there. A ``<bos>`` that both the
    text and the tokenizer put in front is taken once.

    Args:
        prompt: the whole text.
        tokenizer: the policy's.
        add_special_tokens: let the tokenizer add its own (``<bos>``, ...); a chat template has them already.

    Raises:
        UserError: the prompt has no tokens.
    """
    # verbose=False: prompts that are too long are this project's own business (max_prompt_tokens)
    encoding = tokenizer(prompt, add_special_tokens=add_special_tokens, verbose=False)
    prompt_ids = list(encoding["input_ids"])
    bos = tokenizer.bos_token_id
    if add_special_tokens and bos is not None and prompt_ids[:2] == [bos, bos]:
        warnings.warn(  # once for all prompts: the text is the same
            f"The prompt begins with '{tokenizer.bos_token}', which the tokenizer adds too: it is taken once. Leave it "
            "out of the template.",
            stacklevel=2,
        )
        prompt_ids.pop(0)
    while prompt_ids and prompt_ids[-1] == tokenizer.eos_token_id:
        prompt_ids.pop()
    if not prompt_ids:
        raise UserError(f"The prompt '{prompt}' has no tokens in this tokenizer.")
    return prompt_ids


def check_vocabulary(token_ids: Iterable[int], tokenizer: PreTrainedTokenizerBase, size: int, what: str) -> None:
    """Refuse tokens that the model has no rows for.

    Args:
        token_ids: of a text.
        tokenizer: that made them.
        size: of the model's vocabulary.
        what: the text, for the error.

    Raises:
        UserError: naming the token.
    """
    beyond = next((token_id for token_id in token_ids if token_id >= size), None)
    if beyond is not None:
        raise UserError(
            f"{what} contains the token '{tokenizer.convert_ids_to_tokens(beyond)}' with the id {beyond}, and the "
            f"model's vocabulary ends at {size - 1}: the tokenizer, or its chat template, is not this model's. Leave "
            "the token out, or enlarge the model's embeddings (resize_token_embeddings) and train them."
        )
