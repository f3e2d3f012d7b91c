"""What kinds of answers there are, and reading of a text as one of them.

Only the outer structure is read here: lists, tuples, sets, intervals, equations, ratios. What they consist of stays
text until somebody compares it.
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from laser_lightning.verifiers.intervals import Interval, Union, read_inequality
from laser_lightning.verifiers.latex import as_words, phrase, squeeze, unwrap
from laser_lightning.verifiers.numbers import Number
from laser_lightning.verifiers.splitting import enclosed, split_top
from laser_lightning.verifiers.units import Unit, split_unit

Answer = "Value | Words | Items | Interval | Union | Equation | Relation | Ratio | Clock | Based | Cases"


@dataclass(frozen=True)
class Value:
    """A number or an expression, with its unit."""

    text: str
    number: Number | None
    unit: Unit


@dataclass(frozen=True)
class Words:
    """A text that is compared as it is."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list (no brackets), tuple (ordered) or set of answers."""

    kind: str
    items: tuple


@dataclass(frozen=True)
class Equation:
    """Sides of an equation; named if it says what one thing is (`x=5`, `f(x)=x^2`, `m \\in [1,2]`)."""

    name: str
    value: object
    sides: tuple[str, str]


@dataclass(frozen=True)
class Relation:
    """An inequality that bounds no single letter."""

    left: str
    sign: str
    right: str


@dataclass(frozen=True)
class Ratio:
    """Parts of a proportion such as 2:3."""

    parts: tuple[str, ...]


@dataclass(frozen=True)
class Clock:
    """A time of the day; the half of it is empty if it is not given."""

    hours: int
    minutes: int
    half: str


@dataclass(frozen=True)
class Based:
    """Digits in a base."""

    digits: str
    base: str


@dataclass(frozen=True)
class Cases:
    """The cells of a `cases` environment, row by row."""

    rows: tuple[tuple, ...]


_CLOCK = re.compile(r"(\d{1,2}) ?: ?([0-5]\d)(?: ?([AaPp])\.? ?[Mm]\.?)?")
_BASED = re.compile(r"\(?([0-9A-Fa-f]+)\)?_ ?\{? ?(\d+|[a-z]+) ?\}?")
_NUMERALS = "two three four five six seven eight nine ten eleven twelve"
_BASES = {word: base for base, word in enumerate(_NUMERALS.split(), start=2)} | {"sixteen": 16}
_CASES = re.compile(r"\\begin\{cases\}(.*)\\end\{cases\}", re.DOTALL)
_TEXT = re.compile(r"\\(?:text(?:rm|bf|it|sf|normal)?|mathrm|mbox)\s*\{([^{}]*)\}")
_AND = re.compile(r"(?<![A-Za-z])(?:and|or)(?![A-Za-z])")
_PIECE = re.compile(r"\s*(?:,|and)?\s*([-+]?\d(?:[\d.,/]*\d)?) ?([A-Za-z]{2,})\.?")
# An order or a date, such as 1-3-2.
_NUMBERED = re.compile(r"\d+(?:-\d+){2,}")
_LABELS = re.compile(r"(?=.*[A-Z]{2})[A-Z]{2,3}|[a-z]{2,3}")
_GROUPED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
_LETTER = r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|sigma|rho|ell|varphi|tau))"
_SUBSCRIPT = r"(?:_(?:\w|\{[^{}]*\}))?"
_CALLED = r"'?(?: ?\([\w, ]+\))?"
_NAME = re.compile(
    rf"{_LETTER}{_SUBSCRIPT}{_CALLED}|\( ?{_LETTER}{_SUBSCRIPT}(?: ?, ?{_LETTER}{_SUBSCRIPT})+ ?\)"
    r"|(?:m ?)?\\(?:angle|triangle|overline|vec|hat|measuredangle)[ {]*[A-Za-z ]+(?:_(?:\w|\{[^{}]*\}))?\}?"
    r"|\\(?:text\w*|mathrm|mbox|operatorname)\s*\{[^{}]*\}(?:_\w)?(?: ?\([^()]*\))?"
    r"|[A-Z][A-Za-z ]{2,}|[A-Z]{2,4}|\|[A-Z]{2}\|"
    # What problems ask for: the value of `m+n`, `abc`, `\frac{a}{b}`.
    r"|[a-zA-Z](?: ?[+*-]? ?[a-zA-Z]){1,4}|\\frac\{[a-zA-Z]\}\{[a-zA-Z]\}|[a-zA-Z]/[a-zA-Z]"
)
_SIGNED = re.compile(r"\\pm(?![A-Za-z])")
_WITHOUT = re.compile(r"(?:\\mathbb ?\{R\}|\\R|R) ?\\(?:setminus|backslash) ?\\\{([^,;]+)\\\}")
_REALS = re.compile(r"\\(?:mathbb ?\{R\}|R|reals?)(?![A-Za-z])|ℝ")


@lru_cache(maxsize=1024)
def read_answer(text: str) -> object:
    """Reads a cleaned answer.

    Args:
        text: A cleaned answer.

    Returns:
        One of the classes of this module, `Interval` or `Union`. What is nothing else is a `Value`.
    """
    inner = unwrap(text)
    if number := Number.parse(inner):
        return Value(inner, number, Unit(number.unit))
    if clock := _CLOCK.fullmatch(phrase(inner)):
        return Clock(int(clock[1]), int(clock[2]), (clock[3] or "").lower())
    if based := _BASED.fullmatch(_TEXT.sub(r"\1", inner)):
        base = str(_BASES.get(based[2], based[2]))
        if base.isdigit() and any(character.isdigit() for character in based[1]):
            return Based(based[1].upper(), base)
    if cases := _CASES.fullmatch(inner):
        rows = [row for row in re.split(r"\\\\", cases[1]) if row.strip()]
        return Cases(tuple(tuple(read_answer(cell.strip(" ,;.")) for cell in row.split("&")) for row in rows))
    if pieces := _series(inner):
        return Items("list", tuple(read_answer(piece) for piece in pieces))
    if _LABELS.fullmatch(inner) or _NUMBERED.fullmatch(inner):
        return Words(inner)
    if split_unit(text)[0] == text and (words := as_words(inner, styled=len(inner) < len(text))):
        return Words(words)
    return _several(text) or _related(text) or _bracketed(text) or _single(text)


def _several(text: str) -> object | None:
    """Reads what stands side by side: a list, or inequalities of which one holds."""
    marked = _TEXT.sub(lambda found: _mark(found[0], found[1]), text)
    # Beside commas with a space those between groups of three digits are no separators.
    if ", " in marked:
        marked = _GROUPED.sub(lambda found: found[0].replace(",", ""), marked)
    parts, separators = split_top(marked)
    if len(parts) > 1:
        read = [read_answer(part) for part in parts]
        if all(isinstance(part, Interval | Union) for part in read) and separators <= {"or"}:
            return Union.of(read)
        if len(read) == 2 and separators == {"and"} and (both := Interval.between(*read)):
            return both
        # `x = a, b, c` names them all.
        first = read[0]
        if isinstance(first, Equation) and first.name and not any(isinstance(part, Equation) for part in read[1:]):
            read[0] = first.value
        return Items("list", tuple(item for part in read for item in _flat(part)))
    return None if text.startswith("\\{") else _signs(text)


def _flat(part: object) -> tuple:
    return part.items if isinstance(part, Items) and part.kind == "list" else (part,)


def _mark(whole: str, content: str) -> str:
    """`\\text{ boys and }` separates two answers."""
    pieces = _AND.split(content)
    if len(pieces) == 1:
        return whole
    word = _AND.search(content)
    assert word is not None
    return f" {word[0]} ".join(f"\\text{{{piece}}}" if piece.strip() else "" for piece in pieces)


def _series(text: str) -> list[str]:
    """The amounts of `2 hours 45 minutes` or `5 boys and 7 girls`; nothing if the text is anything else."""
    plain, at, pieces = phrase(_TEXT.sub(r" \1 ", text)), 0, []
    while found := _PIECE.match(plain, at):
        pieces.append(f"{found[1]} \\text{{{found[2]}}}")
        at = found.end()
    return pieces if len(pieces) > 1 and at == len(plain) else []


def _signs(text: str) -> object | None:
    signs = _SIGNED.findall(text)
    if len(signs) != 1:
        return None
    read = []
    for upper, lower in (("+", "-"), ("-", "+")):
        one = re.sub(r"\\mp(?![A-Za-z])", lower, _SIGNED.sub(upper, text)).strip()
        read.append(read_answer(re.sub(r"(^|[=(,{]) ?\+", r"\1", one).strip()))
    return Items("list", tuple(item for part in read for item in _flat(part)))


def _related(text: str) -> object | None:
    parts, signs = split_top(text, relations=True)
    if not signs:
        return None
    if signs == {"="} and all(parts):
        return _equation(parts)
    if signs == {"\\in"} and len(parts) == 2 and _NAME.fullmatch(parts[0]):
        value = read_answer(parts[1])
        value = replace(value, letter=parts[0]) if isinstance(value, Interval) else value
        return Equation(squeeze(parts[0]), value, (parts[0], parts[1]))
    if signs == {"\\approx"} and len(parts) == 2 and _NAME.fullmatch(parts[0]):
        return _equation(parts)
    if (interval := read_inequality(text)) is not None:
        return interval
    if len(parts) == 2 and len(signs) == 1 and all(parts):
        (sign,) = signs
        if sign in ("<", "\\le", ">", "\\ge", "\\ne"):
            left, right = parts if sign in ("<", "\\le", "\\ne") else (parts[1], parts[0])
            return Relation(left, {">": "<", "\\ge": "\\le"}.get(sign, sign), right)
    return None


def _equation(parts: list[str]) -> Equation:
    if len(parts) == 2 and not _NAME.fullmatch(parts[0]) and re.fullmatch(_LETTER + _SUBSCRIPT, parts[1]):
        parts = parts[::-1]
    name = squeeze(phrase(parts[0])) if _NAME.fullmatch(parts[0]) else ""
    return Equation(name, read_answer(parts[-1]), (parts[0], parts[-1]))


def _bracketed(text: str) -> object | None:
    if text in ("\\emptyset", "\\{\\}", "\\{ \\}"):
        return Items("set", ())
    if _REALS.fullmatch(text):
        return Interval("-\\infty", "\\infty", False, False)
    if without := _WITHOUT.fullmatch(text):
        value = without[1].strip()
        return Union((Interval("-\\infty", value, False, False), Interval(value, "\\infty", False, False)))
    if (interval := read_inequality(text)) is not None:
        return interval
    parts, _ = split_top(text, unions=True)
    if len(parts) > 1:
        return Union.of([read_answer(part) for part in parts])
    brackets = enclosed(text)
    if brackets is None:
        return None
    opener, content, closer = brackets
    inner, separators = split_top(_spaced(content))
    if opener == "\\{":
        items = tuple(item for part in inner if part for item in _flat(read_answer(part)))
        return Items("set", items) if closer == "\\}" else None
    if len(inner) == 1 and opener == "(" and closer == ")" and not (signs := _signs(content)):
        return read_answer(content.strip()) if not _is_letter(content) else None
    if len(inner) == 1 and opener == "(" and closer == ")":
        return signs
    if not separators <= {",", ";"} or len(inner) < 2:
        return None
    if len(_SIGNED.findall(content)) == 1:
        return _signs(text)
    if len(inner) == 2 and (opener, closer) != ("(", ")"):
        return Interval(inner[0], inner[1], opener == "[", closer == "]")
    return Items("tuple", tuple(read_answer(part) for part in inner)) if opener == "(" and closer == ")" else None


def _spaced(content: str) -> str:
    return _GROUPED.sub(lambda found: found[0].replace(",", ""), content) if ", " in content else content


def _is_letter(content: str) -> bool:
    return len(content.strip()) == 1 and content.strip().isalpha()


def _single(text: str) -> object:
    parts, _ = split_top(text, colons=True)
    if len(parts) > 1 and all(parts):
        return Ratio(tuple(parts))
    if ratio := re.fullmatch(r"(\d+) (?:to|is to) (\d+)", phrase(_TEXT.sub(r" \1 ", text))):
        return Ratio(ratio.groups())
    head, unit = split_unit(text)
    number = Number.parse(unwrap(head)) if head != text else None
    return Value(head, number, unit)
