"""Finding of the final answer in a response that has no box."""

import re
from collections.abc import Iterator

from laser_lightning.verifiers.agreement import is_readable
from laser_lightning.verifiers.answers import read_answer
from laser_lightning.verifiers.latex import clean

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_PHRASE = re.compile(
    r"####|(?i:\b(?:final\s+)?(?:answer|result|solution)s?\b(?:\s+(?:to|of|for)\b[^.\n]{0,80}?)?[*_]{0,2}\s*"
    r"(?::|=|\b(?:is|are|should be|must be|will be|would be|equals?)\b:?))[\s*_]*"
)
_EMPHASIS = re.compile(r"(?:(?<=\s)|^)\*\*(?=\S)|(?<=\S)\*\*(?=[\s.,;:!?)]|$)")
_SENTENCE_END = re.compile(r"\.(?=[\s*)]|$)|[!?](?=\s|$)|\n|(?<=\S)\*\*")
_MATH = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<![\\\d])\$((?:[^$\n\\]|\\.)+?)\$(?!\d)", re.DOTALL)
_RUN = re.compile(
    r"(?:[$€£][ ]?)?(?:(?<![\w.)])[-−] ?)?(?:√ ?|\(){0,5}(?:\d|\.\d|π|\\frac|\\sqrt)"
    r"(?: ?[√π]|[\d.()^²³]|,(?=\d{3}(?!\d))|\{,\}(?=\d)"
    r"|(?: ?[-+*/×·^−] ?)(?=[\d(√π.\\])|\\(?:frac|sqrt|pi|cdot|times)|[{}])*"
    r"(?: ?(?:\\?%|percent\b))?"
)
_LEADING = re.compile(r"(?i)^(?:therefore|thus|so|hence|is|equal to|approximately|about|just|simply|the)\b[\s,:]*")
_VARIABLE_BEFORE = re.compile(r"(?:[*/^+_×·√-]\s?|[A-Za-z])$")
_VARIABLE_BEHIND = re.compile(r" ?[/*^+=_√π]|(?!(?:th|st|nd|rd|[cmk]m|[km]g|ml)\b)[A-Za-z]| (?![aAI]\b)[A-Za-z]\b")
_MINUEND = re.compile(r"(?:(?<![A-Za-z])[A-Za-z]|[\d)]) ?$")
_PERCENT = re.compile(r"\s*(?:\\?%|percent\b)")
_REASON = re.compile(r"(?<=\S)\s*,?\s+(?:because|since|as|which|where|when|so|not|but)\b.*")
_MOST_WORDS = 4


def find_final_answer(text: str) -> str | None:
    r"""Finds the final answer of a response without a box.

    That is what stands in `<answer>...</answer>`, or else behind the last "the answer is", "Answer:" or "####", to the
    end of its sentence or line; or else the last formula or number, whichever is later.

    Args:
        text: The end of a response.

    Returns:
        The answer, cleaned; None if there is none that can be read.
    """
    if tagged := _TAGGED.findall(text):
        return next(filter(None, map(_readable, _spellings(tagged[-1]))), None)
    for phrase in reversed(list(_PHRASE.finditer(text))):
        rest = text[phrase.end() :].lstrip()
        end = _SENTENCE_END.search(rest)
        sentence = rest[: end.start()] if end else rest
        for spelling in _spellings(sentence):
            if answer := _readable(spelling, words=True):
                return answer
        if (found := _last_part(sentence, first=True)) is not None:
            return found
        if sentence.strip():
            break
    return _last_part(_EMPHASIS.sub(" ", text))


def _spellings(text: str) -> Iterator[str]:
    """The text, without what introduces it, and what stands behind its last `=` outside of formulas."""
    bare = re.sub(r"\\[\[\]()]|\*\*|^[_*`]+|[_*`]+$", " ", text).strip()
    spellings = [bare]
    while (shorter := _LEADING.sub("", spellings[0])) != spellings[0]:
        spellings.insert(0, shorter)
    yield from (short for spelling in spellings if (short := _REASON.sub("", spelling)) != spelling)
    yield from spellings


def _readable(text: str, words: bool = True) -> str | None:
    answer = clean(text)
    if not answer or len(answer) > 300:
        return None
    return answer if is_readable(read_answer(answer), _MOST_WORDS if words else 0) else None


def _last_part(text: str, first: bool = False) -> str | None:
    """The last (or first) formula or number, if it is one by itself and no part of something longer."""
    formulas = [(found.start(), found.end(), next(filter(None, found.groups()), "")) for found in _MATH.finditer(text)]
    runs = [
        (run.start(), run.end(), run[0])
        for run in _RUN.finditer(text)
        if not any(start <= run.start() < end for start, end, _ in formulas)
    ]
    found = min if first else max
    if not formulas and not runs:
        return None
    start, end, content = found(formulas + runs)
    if (start, end, content) in runs and (_VARIABLE_BEFORE.search(text[:start]) or _VARIABLE_BEHIND.match(text, end)):
        return None
    if content.startswith(("-", "−")) and _MINUEND.search(text[:start]):
        return None
    if content.count("(") < content.count(")"):
        content = content.rstrip(")")
    readable = _readable(content, words=False)
    percent = _PERCENT.match(text, end)
    return readable + "\\%" if readable and percent and "%" not in readable else readable
