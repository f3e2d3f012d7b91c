"""The record of one problem."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class RecordedSolution(NamedTuple):
    """A solution that is there already, with what the verifier said of it.

    Attributes:
        text: the response, without special tokens.
        reward: the verifier's; None for a worked solution, which nobody judged.
        finished: whether it ended by itself, and was not cut at a length limit.
        prompt_fingerprint: of the prompt that it answers, where that is known (``prompt_fingerprint``).
    """

    text: str
    reward: float | None
    finished: bool = True
    prompt_fingerprint: str | None = None


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
        recorded: its recorded solutions, when the source has rewards; ``solution`` is then None.
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
    recorded: tuple[RecordedSolution, ...] = ()
