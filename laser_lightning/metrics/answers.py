"""Answers as integers, so that metrics can hold and gather them as tensors."""

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

NO_ANSWER = -1


def answer_ids(answers: Sequence[str | None]) -> Tensor:
    """Ids of canonical answers: equal texts get equal ids, in every process and on every rank.

    An id is a 63-bit hash of the text, so two of the few answers to one problem practically never collide.

    Args:
        answers: canonical texts as from ``Verifier.canonical``; None where a solution has no answer.

    Returns:
        [N], int64, not negative; -1 for None.
    """
    ids = [NO_ANSWER if answer is None else _hash(answer) for answer in answers]
    return torch.tensor(ids, dtype=torch.int64)


def _hash(text: str) -> int:
    # surrogatepass: a sampled text may hold half of a surrogate pair, which strict UTF-8 refuses.
    digest = blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
