"""A prompt's text as the token ids that a response follows."""

from transformers import PreTrainedTokenizerBase

from laser_lightning.errors import UserError


def encode_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase, add_special_tokens: bool) -> list[int]:
    """The token ids of a prompt.

    An ``<eos>`` that the tokenizer puts at the end is taken off: the response starts there.

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
    while prompt_ids and prompt_ids[-1] == tokenizer.eos_token_id:
        prompt_ids.pop()
    if not prompt_ids:
        raise UserError(f"The prompt '{prompt}' has no tokens in this tokenizer.")
    return prompt_ids
