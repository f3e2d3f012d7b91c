"""Which sentence of a response each token belongs to, told by the tokens themselves."""

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from laser_lightning.shapes import Bool, Int

_ENDS = (".", "!", "?")


def sentence_ends(tokenizer: PreTrainedTokenizerBase, vocabulary_size: int) -> Bool[Tensor, " V"]:
    """[V] bool: tokens that end a sentence, those whose text has a line break or ends in one of ``. ! ?``.

    Args:
        tokenizer: the policy's.
        vocabulary_size: V, ids that the model has rows for.
    """
    known = min(len(tokenizer), vocabulary_size)
    texts = tokenizer.batch_decode([[token_id] for token_id in range(known)])
    ends = torch.zeros(vocabulary_size, dtype=torch.bool)
    ends[:known] = torch.tensor(["\n" in text or text.rstrip().endswith(_ENDS) for text in texts])
    return ends


def number_sentences(token_ids: Int[Tensor, "B R"], ends: Bool[Tensor, " V"]) -> Int[Tensor, "B R"]:
    """[B, R] int64: the number of each token's sentence, from 0; the token that ends a sentence belongs to it.

    Args:
        token_ids: [B, R] int64.
        ends: [V] bool of ``sentence_ends``.
    """
    is_end = ends.to(token_ids.device)[token_ids].long()
    return is_end.cumsum(dim=1) - is_end
