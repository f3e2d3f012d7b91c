"""Which answers are the same, and answers as integers, so that metrics can hold and gather them as tensors."""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from laser_lightning.shapes import Int

NO_ANSWER = -1

Pair = tuple[str, str] | tuple[str, str, str | None]
Compare = Callable[[Sequence[Pair]], list[bool]]
"""Says of pairs of answers whether they are equivalent; the name of the problem's verifier follows if it has one."""


def answer_ids(answers: Sequence[str | None]) -> Int[Tensor, " N"]:
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
    """Replace each answer by the representative of its class: equivalent answers become equal strings.

    In each round the first answer that is left in a group (in the order of texts) stands for a class, and takes those
    equivalent to it out of what is left. So D distinct answers in C classes cost at most C * D comparisons, however
    many samples gave them, and no pair is compared twice.

    Args:
        groups: canonical answers to each problem; None (no answer) stays None.
        compare: decides on the strings that differ, on those of one round of all groups in one call.
        verifiers: name of each problem's verifier, where problems name theirs.
    """
    named = [() if name is None else (name,) for name in verifiers or [None] * len(groups)]
    left = [sorted({answer for answer in group if answer is not None}) for group in groups]
    chosen: list[dict[str | None, str | None]] = [{None: None} for _ in groups]
    known: dict[Any, bool] = {}
    while any(left):
        pairs = dict.fromkeys(
            (answers[0], other, *name) for answers, name in zip(left, named, strict=True) for other in answers[1:]
        )
        new: list[Any] = [pair for pair in pairs if pair not in known]
        if new:
            known |= zip(new, compare(new), strict=True)
        for number, (answers, name) in enumerate(zip(left, named, strict=True)):
            for answer in answers:
                if answer == answers[0] or known[(answers[0], answer, *name)]:
                    chosen[number][answer] = answers[0]
            left[number] = [answer for answer in answers if answer not in chosen[number]]
    return [[representative[answer] for answer in group] for group, representative in zip(groups, chosen, strict=True)]
