"""The record of one problem."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """One problem as it flows from the data to the rollout and the verifier.

    Attributes:
        dataset: name of the set: ``train``, or the key under ``data.val``, ``data.test`` or ``data.predict``.
        index: row number in its source.
        problem: the problem's text as in the source.
        prompt: the text after the prompt template or the chat template.
        prompt_ids: token ids of ``prompt``.
        answer: the gold answer.
        kind: kind of problem, when the source has kinds.
        solution: worked solution, when the source has one (the supervised stage trains on it).
        verifier: name of the verifier that judges it, of a ``MixedVerifier``'s; None where the source names none.
        row: all columns of its row in the source, for verifiers that look at them; else empty.
    """

    dataset: str
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs here
    problem: str
    prompt: str
    prompt_ids: list[int]
    answer: str
    kind: str | None = None
    solution: str | None = None
    verifier: str | None = None
    row: Mapping[str, Any] = {}
