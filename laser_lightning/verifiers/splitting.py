"""Splitting of an answer where no bracket is open."""

import re

_OPENERS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
_CLOSERS = set(_OPENERS.values())
_TOKEN = re.compile(
    r"\\(?:begin|end)\s*\{[a-z]*\*?\}|\\text ?\{ ?(?:or|and) ?\}"
    r"|\\(?:lor|vee|land|wedge|cup|mid|in|ne|neq|le|ge|approx)(?![A-Za-z])"
    r"|\\[{}]|\\[A-Za-z]+|\\.|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|.",
    re.DOTALL,
)
_RELATIONS = {"=", "<", ">", "\\le", "\\ge", "\\ne", "\\neq", "\\in", "\\approx"}
_WORDS = {"and": "and", "or": "or", "\\lor": "or", "\\vee": "or", "\\land": "and", "\\wedge": "and"}


def split_top(
    text: str, relations: bool = False, unions: bool = False, colons: bool = False
) -> tuple[list[str], set[str]]:
    r"""Splits a text at its separators outside of all brackets.

    Args:
        text: A cleaned answer.
        relations: Whether to split at `=`, `<`, `\in` and the like, in place of commas, semicolons, `and` and `or`.
        unions: Whether to split at `\cup`, in their place.
        colons: Whether to split at colons, in their place.

    Returns:
        The parts, stripped, and the separators that were met (`,`, `and`, `or` without their spelling).
    """
    parts, separators, depth = [""], set(), 0
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token in _OPENERS or token.startswith("\\begin"):
            depth += 1
        elif token in _CLOSERS or token.startswith("\\end"):
            depth -= 1
        name = _separator(token, relations, unions, colons) if depth == 0 else ""
        if name:
            separators.add({"\\neq": "\\ne"}.get(name, name))
            parts.append("")
        else:
            parts[-1] += token
    parts = [part.strip() for part in parts]
    if depth or not (relations or unions or colons):
        # ", and": what is empty beside a word is no part.
        parts = [part for part in parts if part] if depth == 0 else [text]
    if "and" in separators or "or" in separators:
        separators -= {","}
    return parts, separators if len(parts) > 1 else set()


def _separator(token: str, relations: bool, unions: bool, colons: bool) -> str:
    if relations:
        return token if token in _RELATIONS else ""
    if unions:
        return token if token in ("\\cup", "∪") else ""
    if colons:
        return token if token == ":" else ""
    if token in (",", ";"):
        return ","
    word = token.removeprefix("\\text").strip(" {}") if token.startswith("\\text") else token
    return _WORDS.get(word, "")


def enclosed(text: str) -> tuple[str, str, str] | None:
    r"""Takes off the brackets around a whole text: `(`, `[`, `\{` and any closing one.

    Args:
        text: A cleaned answer.

    Returns:
        The opening bracket, what is within, the closing one; None if no single pair encloses the text.
    """
    tokens = [found[0] for found in _TOKEN.finditer(text.strip())]
    if len(tokens) < 3 or tokens[0] not in ("(", "[", "\\{") or tokens[-1] not in (")", "]", "\\}"):
        return None
    depth = 0
    for place, token in enumerate(tokens):
        if token in _OPENERS or token.startswith("\\begin"):
            depth += 1
        elif token in _CLOSERS or token.startswith("\\end"):
            depth -= 1
        if depth == 0 and place < len(tokens) - 1:
            return None
    return (tokens[0], "".join(tokens[1:-1]), tokens[-1]) if depth == 0 else None
