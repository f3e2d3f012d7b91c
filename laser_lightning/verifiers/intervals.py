"""Intervals, unions of them, and inequalities that bound one letter."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_RELATION = re.compile(r"(<|>|\\[lg]e(?![A-Za-z]))")
_MIRRORED = {">": "<", "\\ge": "\\le", "<": ">", "\\le": "\\ge"}
_SET_BUILDER = re.compile(
    r"\\\{\s*([A-Za-z])(?:\s*\\in\s*(?:\\mathbb\s*\{R\}|\\R|R))?\s*(?:\\mid(?![A-Za-z])|:|\|)(.*)\\\}"
)
_OR = re.compile(r"\\text ?\{ ?or ?\}|\bor\b|\\(?:lor|cup|vee)(?![A-Za-z])")
_AND = re.compile(r"\\text ?\{ ?and ?\}|\band\b|\\(?:land|wedge)(?![A-Za-z])")
_LETTER = re.compile(
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|sigma|rho|ell|varphi|tau))(?:_\w)?"
)
_ABSOLUTE = re.compile(r"(?:\||\\lvert ?)\s*([A-Za-z])\s*(?:\||\\rvert)")
_POSITIVE = re.compile(r"\d+(?:\.\d+)?(?:/\d+)?|\\(?:frac\{\d+\}\{\d+\}|sqrt ?\{?\d+\}?|pi)")
_NOT = re.compile(r"([A-Za-z]) ?\\(?:ne|neq)(?![A-Za-z])(.+)")


@dataclass(frozen=True)
class Interval:
    """An interval. Its bounds are texts; the letter is the one that it bounds, if it is written as an inequality."""

    low: str
    high: str
    has_low: bool
    has_high: bool
    letter: str = ""

    @staticmethod
    def between(one: Any, other: Any) -> "Interval | None":
        """Both of two one-sided intervals of the same letter: `x > 1` and `x < 3`; None if they are anything else."""
        if not (isinstance(one, Interval) and isinstance(other, Interval) and one.letter == other.letter):
            return None
        low, high = (one, other) if "infty" in one.high else (other, one)
        if "infty" not in low.high or "infty" not in high.low or "infty" in low.low or "infty" in high.high:
            return None
        return Interval(low.low, high.high, low.has_low, high.has_high, one.letter)


@dataclass(frozen=True)
class Union:
    """A union of intervals and sets."""

    parts: tuple

    @classmethod
    def of(cls, parts: Sequence[Any]) -> "Union":
        """Joins parts, some of which may be unions."""
        return cls(tuple(inner for part in parts for inner in (part.parts if isinstance(part, Union) else (part,))))


def read_inequality(text: str) -> "Interval | Union | None":
    r"""Reads inequalities that bound one letter.

    Args:
        text: A cleaned answer, such as `-2 < x \le 7`, `x < 0 or x \ge 3`, `x \ne 1` or `\{x \mid x > 5\}`.

    Returns:
        The set of numbers; None if the text is anything else.
    """
    built = _SET_BUILDER.fullmatch(text.strip())
    parts = [_both(part) for part in _OR.split(built[2] if built else text)]
    if not all(parts):
        return None
    inner = tuple(piece for part in parts for piece in part or ())
    letters = {piece.letter for piece in inner}
    if len(letters) != 1 or (built and letters != {built[1]}):
        return None
    return inner[0] if len(inner) == 1 else Union(inner)


def _both(text: str) -> tuple[Interval, ...] | None:
    """The intervals of one alternative; nothing if it is no inequality."""
    if excluded := _NOT.fullmatch(text.strip()):
        letter, value = excluded[1], excluded[2].strip()
        if re.search(r"[<>=,]|\\[lg]e(?![A-Za-z])", value) or letter in value:
            return None
        return (
            Interval("-\\infty", value, False, False, letter),
            Interval(value, "\\infty", False, False, letter),
        )
    halves = [_interval(part) for part in _AND.split(text)]
    if len(halves) == 2 and (joined := Interval.between(*halves)):
        return (joined,)
    return (halves[0],) if len(halves) == 1 and halves[0] else None


def _interval(text: str) -> Interval | None:
    parts = [part.strip() for part in _RELATION.split(text)]
    if parts[1:2] and parts[1] in (">", "\\ge"):
        parts = [_MIRRORED.get(part, part) for part in reversed(parts)]
    if len(parts) == 3 and (absolute := _ABSOLUTE.fullmatch(parts[0])) and _POSITIVE.fullmatch(parts[2]):
        parts = [f"-{parts[2]}", parts[1], absolute[1], parts[1], parts[2]]
    if len(parts) == 3:
        parts = ["-\\infty", "<", *parts] if _is_letter(parts[0]) else [*parts, "<", "\\infty"]
    if len(parts) != 5 or not _is_letter(parts[2]) or not {parts[1], parts[3]} <= {"<", "\\le"}:
        return None
    low, left, letter, right, high = parts
    for bound in (low, high):
        # The letter itself in a bound: the inequality is not solved. A comma or an equation: there is more to it.
        if not bound or re.search(rf"(?<![A-Za-z\\]){re.escape(letter)}(?![A-Za-z])|[,;=]|\\in(?![a-z])", bound):
            return None
    return Interval(low, high, left == "\\le", right == "\\le", letter)


def _is_letter(text: str) -> bool:
    return _LETTER.fullmatch(text) is not None
