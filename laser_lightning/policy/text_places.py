"""Where in a response's tokens a place of its text is."""

from bisect import bisect_right

from transformers import PreTrainedTokenizerBase


def tokens_before(tokenizer: PreTrainedTokenizerBase, ids: list[int], characters: int) -> int:
    """Count the first tokens whose text lies in front of a place; one that reaches over the place is behind it.

    Special tokens have no text: one at the place itself, such as an ``<eos>``, is in front of it.

    Args:
        tokenizer: what the text is decoded by.
        ids: the response.
        characters: the place, in characters of the text without special tokens.
    """

    def length(tokens: int) -> int:
        return len(tokenizer.decode(ids[:tokens], skip_special_tokens=True))

    return max(0, bisect_right(range(len(ids) + 1), characters, key=length) - 1)
