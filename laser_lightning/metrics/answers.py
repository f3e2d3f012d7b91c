"""Which answers are the same, and answers as integers, so that metrics can hold and gather them as tensors."""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

NO_ANSWER = -1

Pair = tuple[str, str] | tuple[str, str, str | None]
Compare = Callable[[Sequence[Pair]], list[bool]]
"""Says of pairs of answers whether they are equivalent; the name of the problem's verifier follows if it has one."""


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


def representatives(
    groups: list[list[str | None]], compare: Compare, verifiers: Sequence[str | None] | None = None
) -> list[list[str | None]]:
    """Replace each answer by the first one of its group that it is equivalent to: equal answers become equal strings.

    Args:
        groups: canonical answers to each problem; None (no answer) stays None.
        compare: decides on the strings that differ.
        verifiers: name of each problem's verifier, where problems name theirs.
    """
    named = [() if name is None else (name,) for name in verifiers or [None] * len(groups)]
    distinct = [sorted({answer for answer in group if answer is not None}) for group in groups]
    pairs: list[Any] = list(
        dict.fromkeys(
            (*pair, *name) for answers, name in zip(distinct, named, strict=True) for pair in combinations(answers, 2)
        )
    )
    equal = {pair for pair, same in zip(pairs, compare(pairs), strict=True) if same}
    replaced = []
    for group, answers, name in zip(groups, distinct, named, strict=True):
        first: dict[str | None, str | None] = {None: None}
        for number, answer in enumerate(answers):
            first[answer] = next((known for known in answers[:number] if (known, answer, *name) in equal), answer)
        replaced.append([first[answer] for answer in group])
    return replaced
