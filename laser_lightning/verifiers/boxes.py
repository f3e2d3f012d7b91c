"""Finding of boxed answers in a text."""

import re
from collections.abc import Callable
from typing import NamedTuple

_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
# What may stand between two boxes that make up one answer, without spaces and math delimiters.
_BETWEEN = re.compile(r"(?:[,;]|[,;]?(?:and|or))(?:[A-Za-z](?:_\w+)?=)?")
_SPACING = re.compile(r"\\(?:q?quad(?![A-Za-z])|[\[\](),;:! ])|\\text\s*\{|[\s${}&~*]")
_NAMED = re.compile(r"([A-Za-z](?:_\w+)?)\s*=\s*$")
_FARTHEST = 60
_MOST_BOXES = 30


class _Box(NamedTuple):
    start: int
    end: int
    content: str
    inner: bool


def boxed_answer(text: str, canonical: Callable[[str], str]) -> str | None:
    r"""Finds the boxed answer: the last box, with those before it that a comma, `and` or `or` joins to it.

    Args:
        text: Any text.
        canonical: Writes an answer in a canonical form; boxes that say the same are one.

    Returns:
        What is in the last `\boxed{...}` (or `\fbox{...}`) with balanced braces and something in it, for nested boxes
        the innermost. Several joined boxes become a list, with names if they have different ones (`x=1, y=2`). None
        if there is no box.
    """
    boxes = _boxes(text)
    if not boxes:
        return None
    last = max(boxes, key=lambda box: box.start)
    if last.inner:
        return last.content
    joined = [last]
    for box in sorted(boxes, key=lambda box: -box.start)[1:_MOST_BOXES]:
        between = text[box.end : joined[0].start] if box.end <= joined[0].start else ""
        if box.inner or len(between) > _FARTHEST or not _BETWEEN.fullmatch(_SPACING.sub("", between)):
            break
        joined.insert(0, box)
    contents = [box.content for box in joined]
    if len(joined) == 1 or len(set(map(canonical, contents))) == 1:
        return last.content
    names = [found[1] if (found := _NAMED.search(text[: box.start])) else "" for box in joined]
    if all(names) and len(set(names)) == len(names):
        contents = [f"{name}={content}" for name, content in zip(names, contents, strict=True)]
    return ", ".join(contents)


def last_boxed(text: str) -> str | None:
    r"""Finds the last `\boxed{...}` (or `\fbox{...}`) with balanced braces and something in it.

    Args:
        text: Any text.

    Returns:
        What is in the box that begins last, stripped; None if there is no such box. For nested boxes
        that is the innermost one.
    """
    boxes = _boxes(text)
    return max(boxes, key=lambda box: box.start).content if boxes else None


def _boxes(text: str) -> list[_Box]:
    """All boxes with balanced braces and something in them."""
    starts = [place for place in (text.find("\\boxed"), text.find("\\fbox")) if place >= 0]
    if not starts:
        return []
    boxes: list[_Box] = []
    open_braces: list[re.Match[str]] = []
    for token in _BOX_TOKEN.finditer(text, min(starts)):
        word = token.group()
        if word == "}":
            if not open_braces:
                continue
            opener = open_braces.pop()
            content = text[opener.end() : token.start()].strip()
            if content and opener.group() != "{":
                inner = any(outer.group() != "{" for outer in open_braces)
                boxes.append(_Box(opener.start(), token.end(), content, inner))
        elif word.endswith("{") and word != "\\{":
            open_braces.append(token)
    return boxes
