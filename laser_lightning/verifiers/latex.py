"""Reading of short mathematical answers as text: boxes, spelling variants of LaTeX, plain numbers.

Nothing here needs a computer algebra system, so it is fast and cannot hang.
"""

import re
from fractions import Fraction
from typing import NamedTuple

_BOX_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)

# Spelling variants that mean the same. The order matters: a `\$` goes before the `\` would meet another rule.
_CLEANINGS = [
    (re.compile(r"\\?\$"), ""),
    (re.compile("[−–]"), "-"),
    (re.compile("°"), r"^\\circ"),
    (re.compile("∞"), r"\\infty "),
    (re.compile("∪"), r"\\cup "),
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\\(?:bf|displaystyle)(?![A-Za-z])|\\color\s*\{\w*\}"), ""),
    (re.compile(r"^\s*(?:=|\\approx(?![A-Za-z]))"), ""),
    (re.compile(r"\\varnothing(?![A-Za-z])|∅"), r"\\emptyset "),
    (re.compile(r"\\leq(?:slant)?(?![A-Za-z])|≤"), r"\\le "),
    (re.compile(r"\\geq(?:slant)?(?![A-Za-z])|≥"), r"\\ge "),
    (re.compile("·"), r"\\cdot "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:left|right)(?![A-Za-z])"), ""),
    (re.compile(r"\\!\s*"), ""),
    (re.compile(r"\s*\{,\}\s*"), ","),
    # `\\ ` is a new row of a matrix, not a space.
    (re.compile(r"(?<!\\)\\(?:[,;:]|\s|q?quad(?![A-Za-z]))|~"), " "),
    (re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))"), r"\\frac{\1\2}{\3\4}"),
    (re.compile(r"_\{\\(max|min)\s*\}"), r"_{\1}"),
    (re.compile(r"_\{(\w)\}"), r"_\1"),
    (re.compile(r"^\s*\\(?:text|mathrm|mbox)\s*\{[^{}]* (?:is|are)[: ]*\}[: ]*"), ""),
]
_WRAPPED = re.compile(r"\\(?:text\w*|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}")
_LETTER_IN_PARENTHESES = re.compile(r"\(([A-Za-z])\)")
_LOOSE_SPACE = re.compile(r"(?<![^\W_])\s+|\s+(?![^\W_])")

# A word of four letters or more is prose; shorter ones ("xy", "abc") may be products of variables.
_LETTER = r"[^\W\d_]"
_PROSE = re.compile(rf"(?=.*{_LETTER}{{4}}){_LETTER}+(?:[ .,;:'’-]+{_LETTER}+)*")

_RELATION = re.compile(r"(<|>|\\[lg]e(?![A-Za-z]))")
_MIRRORED = {">": "<", "\\ge": "\\le", "<": ">", "\\le": "\\ge"}
_INTERVAL = re.compile(r"[(\[][^()\[\]]*,[^()\[\]]*[)\]]")
_UNION = re.compile(rf"{_INTERVAL.pattern}(?:\s*\\cup\s*{_INTERVAL.pattern})*")
_OR = re.compile(r"\\text ?\{ ?or ?\}|\bor\b|\\(?:lor|cup|vee)(?![A-Za-z])")
_SET_BUILDER = re.compile(r"\\\{ ?[A-Za-z](?: ?\\in ?(?:\\mathbb ?\{R\}|R))? ?(?:\\mid(?![A-Za-z])|:|\|)(.*)\\\}")
_BRACES = re.compile(r"\\\{.*\\\}")

_MULTIPLES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MULTIPLE = f"(?:{'|'.join(_MULTIPLES)})"
_UNIT = (
    r"(?:square |cubic )?(?:(?:centi|kilo|milli)?met(?:er|re)s?|inch(?:es)?|feet|foot|yards?|miles?)|lit(?:er|re)s?"
    r"|gallons?|(?:kilo)?grams?|pounds?|ounces?|seconds?|minutes?|hours?|days?|weeks?|months?|years?"
    r"|(?:square |cubic )?units?|degrees?|dollars?|cents?"
)
_DECIMAL = r"\d+(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?) ?(?:(?P<thousands>\d{{1,3}}(?:[, ]\d{{3}})+(?:\.\d+)?)"
    rf"|(?:(?P<whole>\d+) )? ?(?P<negative>-?)(?P<top>{_DECIMAL}) ?/ ?(?P<bottom>{_DECIMAL})"
    rf"|(?P<plain>{_DECIMAL}))"
    r"(?: ?\^ ?(?:\\circ|\{ ?\\circ ?\}))?"
    r"(?P<unit> ?\\?%| ?percent| ?\\(?:text|mbox|mathrm) ?\{[^{}]*\}(?:\^(?:\d|\{\d\}))?"
    rf"| {_MULTIPLE}| (?:{_MULTIPLE} )?(?:{_UNIT}))?"
)
_PLAIN_FRACTION = re.compile(r" ?\\frac\{(-?\d+)\}\{(\d+)\}")
# Python refuses to convert longer integers, and no answer is one.
_LONGEST_NUMBER = 1000


def last_boxed(text: str) -> str | None:
    r"""Finds the last `\boxed{...}` (or `\fbox{...}`) with balanced braces and something in it.

    Args:
        text: Any text.

    Returns:
        What is in the box that begins last, stripped; None if there is no such box. For nested boxes
        that is the innermost one.
    """
    starts = [place for place in (text.find("\\boxed"), text.find("\\fbox")) if place >= 0]
    if not starts:
        return None
    found, found_at = None, -1
    open_braces: list[tuple[int, bool]] = []
    for token in _BOX_TOKEN.finditer(text, min(starts)):
        word = token.group()
        if word == "}":
            if not open_braces:
                continue
            content_at, is_box = open_braces.pop()
            content = text[content_at : token.start()].strip() if is_box and content_at > found_at else ""
            if content:
                found, found_at = content, content_at
        elif word.endswith("{") and word != "\\{":
            open_braces.append((token.end(), word != "{"))
    return found


def clean(text: str) -> str:
    r"""Removes differences of spelling that never carry meaning.

    Those are dollar signs, `\left` and `\right`, `\dfrac`, `\!` and `{,}` in numbers, spacing commands,
    typographic signs, and final punctuation.

    Args:
        text: An answer, with or without LaTeX.

    Returns:
        The cleaned answer; it still means the same to a LaTeX parser.
    """
    for pattern, replacement in _CLEANINGS:
        text = pattern.sub(replacement, text)
    return text.strip(" \t\r\n").rstrip(" \t\r\n.,;:")


def unwrap(text: str) -> str:
    r"""Takes the text out of a `\text{...}`, `\mathrm{...}` or the like around it, and C out of (C).

    Args:
        text: A cleaned answer.

    Returns:
        The text itself, on one line. To a LaTeX parser it may mean something else (letters become variables).
    """
    while wrapped := _WRAPPED.fullmatch(text):
        text = clean(wrapped.group(1))
    letter = _LETTER_IN_PARENTHESES.fullmatch(text)
    return letter.group(1) if letter else " ".join(text.split())


def squeeze(text: str) -> str:
    """Removes the spaces that do not separate two words or numbers."""
    return _LOOSE_SPACE.sub("", text)


def is_prose(text: str) -> bool:
    """Whether an unwrapped answer is made of words only, at least one of them four letters long."""
    return _PROSE.fullmatch(text) is not None


def is_tuple(text: str) -> bool:
    """Whether a cleaned answer is one tuple or one interval: brackets around a list without other brackets."""
    return _INTERVAL.fullmatch(text) is not None


def is_union(text: str) -> bool:
    """Whether a cleaned answer is an interval, or a union of some."""
    return _UNION.fullmatch(text) is not None


def is_set(text: str) -> bool:
    r"""Whether a cleaned answer stands in `\{...\}` as a whole."""
    return _BRACES.fullmatch(text) is not None and "cup" not in text


def as_intervals(text: str) -> str | None:
    r"""Writes inequalities that bound one letter as intervals.

    Args:
        text: A cleaned answer, such as `-2 < x \le 7`, `x < 0 or x \ge 3` or `\{x \mid x > 5\}`.

    Returns:
        The intervals, `(-2,7]`, `(-\infty,0)\cup[3,\infty)` and `(5,\infty)`; None if the text is anything else.
    """
    built = _SET_BUILDER.fullmatch(text)
    intervals = [_interval(part) for part in _OR.split(built.group(1) if built else text)]
    return "\\cup".join(filter(None, intervals)) if all(intervals) else None


def _interval(text: str) -> str | None:
    parts = [part.strip() for part in _RELATION.split(text)]
    if parts[1:2] and parts[1] in (">", "\\ge"):
        parts = [_MIRRORED.get(part, part) for part in reversed(parts)]
    if len(parts) == 3:
        parts = ["-\\infty", "<", *parts] if _is_letter(parts[0]) else [*parts, "<", "\\infty"]
    if len(parts) != 5 or not _is_letter(parts[2]) or not {parts[1], parts[3]} <= {"<", "\\le"}:
        return None
    low, left, letter, right, high = parts
    # The letter itself in a bound: the inequality is not solved.
    if any(not bound or re.search(rf"(?<![A-Za-z\\]){letter}(?![A-Za-z])", bound) for bound in (low, high)):
        return None
    return f"{'(' if left == '<' else '['}{low},{high}{')' if right == '<' else ']'}"


def _is_letter(text: str) -> bool:
    return len(text) == 1 and text.isalpha()


class Number(NamedTuple):
    """A number written in digits.

    Attributes:
        value: Its exact value; for a percentage the number before the percent sign.
        percent: Whether a percent sign follows.
        decimal: Whether it is written with a decimal point, and so may be rounded.
    """

    value: Fraction
    percent: bool
    decimal: bool

    @classmethod
    def parse(cls, text: str) -> "Number | None":
        r"""Reads an integer, decimal, fraction (`1/2`, `\frac{1}{2}`) or mixed number (`1\frac{1}{2}`).

        Thousands separators, a percent sign, a degree sign, a usual unit or any in `\text{...}`, and words such as
        million are understood.

        Args:
            text: An unwrapped answer.

        Returns:
            The number, or None if the text is anything else.
        """
        if len(text) > _LONGEST_NUMBER:
            return None
        match = _NUMBER.fullmatch(_PLAIN_FRACTION.sub(r" \1/\2", text).strip())
        if match is None:
            return None
        if match["top"] is not None:
            bottom = Fraction(match["bottom"])
            if bottom == 0 or (match["whole"] and match["negative"]):
                return None
            value = Fraction(match["negative"] + match["top"]) / bottom + int(match["whole"] or 0)
        else:
            value = Fraction((match["thousands"] or match["plain"]).replace(",", "").replace(" ", ""))
        value = -value if match["sign"] == "-" else value
        unit = match["unit"] or ""
        for word in re.findall("[a-z]+", unit):
            value *= _MULTIPLES.get(word, 1)
        return cls(value, percent="%" in unit or "percent" in unit, decimal="." in match[0])

    def __str__(self) -> str:
        return f"{self.value}%" if self.percent else str(self.value)

    def agrees(self, other: "Number") -> bool:
        """Compares two numbers exactly, but for a decimal beside a fraction.

        A decimal agrees with a fraction that it approximates to six places. A percentage p% agrees with the
        bare numbers p and p/100, because problems ask for either.

        Args:
            other: The other number.

        Returns:
            True if they are the same number.
        """
        difference = abs(self.value - other.value)
        if self.percent != other.percent:
            percentage, bare = (self, other) if self.percent else (other, self)
            difference = min(difference, abs(percentage.value / 100 - bare.value))
        exact = self if other.decimal else other
        if self.decimal != other.decimal and exact.value.denominator > 1:
            return difference < Fraction(1, 2_000_000)
        return difference == 0
