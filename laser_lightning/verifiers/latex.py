"""Reading of short mathematical answers as text: boxes, spelling variants of LaTeX, words.

Nothing here needs a computer algebra system, so it is fast and cannot hang.
"""

import re
from collections.abc import Callable

from laser_lightning.verifiers.boxes import last_boxed

__all__ = ["as_words", "clean", "last_boxed", "phrase", "squeeze", "unwrap"]

_UPRIGHT = r"\\(?:math(?:rm|it|normal)|text(?:rm|it|normal)?|operatorname\*?|mbox|rm)"
# Without those that are units as well: sec, min.
_FUNCTIONS = "(?:arc|ar)?(?:sin|cos|tan|cot|csc)h?|arcsec|ln|log|lg|exp|gcd|lcm"

# Typographic signs, in LaTeX.
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–", "-"),
        "°": "^\\circ",
        "∞": "\\infty ",
        "∪": "\\cup ",
        "∅": "\\emptyset ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "∈": "\\in ",
        "·": "\\cdot ",
        "×": "\\times ",
        "÷": "\\div ",
        "±": "\\pm ",
        "π": "\\pi ",
        "ℝ": "\\mathbb{R}",
        "²": "^2",
        "³": "^3",
        "\u00a0": " ",
        "\u202f": " ",
        "\u2009": " ",
    }
)
_ROOT = re.compile(r"√ ?(?:(\d+|[A-Za-z])|(?=\())")
_DOLLAR = re.compile(r"(?<!\\)(?<!US)\$")
# Spelling variants of commands that mean the same. The order matters.
_CLEANINGS: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"(?<!\\)\\[()\[\]]|\\(?:left|right)\s*\."), ""),
    (re.compile(r"\{\s*\\rm\s+([A-Za-z]+)\s*\}"), r"\\mathrm{\1}"),
    (re.compile(r"\\(?:math(?:bf|rm|sf|it)|boldsymbol|bm)\s*(?=\d)"), ""),
    (re.compile(r"\\(?:[lL]arge|LARGE|[hH]uge|small|normalsize)(?![A-Za-z])|\\[hv]?phantom\s*\{[^{}]*\}"), ""),
    (re.compile(rf"{_UPRIGHT}\s*\{{\s*(e|i|\\pi)\s*\}}"), r"\1 "),
    (re.compile(rf"{_UPRIGHT}\s*\{{\s*\\?({_FUNCTIONS})\s*\}}"), r"\\\1 "),
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\\(?:bf|displaystyle|textstyle|limits)(?![A-Za-z])|\\(?:text)?color\s*\{\w*\}"), ""),
    (re.compile(r"\\(?:boldsymbol|bm|pmb|mathbf|mathsf|underline)\s*\{((?![A-Za-z ]*\})[^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:boldsymbol|bm|pmb|mathbf|underline)\s*(?=\{[^{}]*\{)"), ""),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"\\leq(?:slant)?(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\geq(?:slant)?(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\(?:[dtc]|nice|s)frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\middle ?\||\\vert(?![A-Za-z])"), r"\\mid "),
    (re.compile(r"\\(?:left|right|[bB]ig+[lrm]?)(?![A-Za-z])"), ""),
    (re.compile(r"\\[lr]brace(?![A-Za-z])"), lambda found: "\\{" if "l" in found[0][1:2] else "\\}"),
    # A comma in braces is no separator of a list: it groups three digits, or is a decimal comma.
    (re.compile(r"(?<=\d)\s*\{,\}\s*(?=\d)(?!\d{3}(?!\d))"), "."),
    (re.compile(r"\\!\s*"), ""),
    (re.compile(r"\s*\{,\}\s*"), ","),
    # `\\ ` is a new row of a matrix, not a space.
    (re.compile(r"(?<!\\)\\(?:[,;:]|\s|q?quad(?![A-Za-z]))"), " "),
    (re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))"), r"\\frac{\1\2}{\3\4}"),
    (re.compile(r"_\{\\(max|min)\s*\}"), r"_{\1}"),
    (re.compile(r"_\{(\w)\}"), r"_\1"),
    (re.compile(r"^\s*\\(?:text|mathrm|mbox)\s*\{[^{}]* (?:is|are)[: ]*\}[: ]*(?=[^: ])"), ""),
]
_LEADING = re.compile(r"^\s*(?:=|\\approx(?![A-Za-z]))")
_WRAPPED = re.compile(r"\\(?:text\w*|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}")
_STYLED = re.compile(r"\\(?:text\w*|math(?:rm|bf|it|sf)|mbox)\s*\{([^{}]*)\}")
_LETTER_IN_PARENTHESES = re.compile(r"\(([A-Za-z])\)")
_LOOSE_SPACE = re.compile(r"(?<![^\W_])\s+|\s+(?![^\W_])")

_WORD = re.compile(r"[^\W\d_]+")
_WORDS = re.compile(r"[\w .,:;!?()'’\"`/&-]+")
_SEPARATOR = re.compile(r" ?([,;:]) ?")
_CONNECTORS = {"and", "or", "to", "cm", "mm", "km", "kg"}
# Short words, which are no products of variables, and words that are no labels even in capitals.
_SHORT = """
yes no odd even none all true false never both zero north south
jan feb mar apr may jun jul aug sep oct nov dec mon tue wed thu fri sat sun
"""
_PLAIN_WORDS = frozenset(_SHORT.split())


def clean(text: str) -> str:
    r"""Removes differences of spelling that never carry meaning.

    Those are dollar signs of mathematics, `\left` and `\right`, `\dfrac`, `\!` and `{,}` in numbers, spacing commands,
    upright and bold type of constants, functions and numbers, typographic signs, and final punctuation.

    Args:
        text: An answer, with or without LaTeX.

    Returns:
        The cleaned answer; it still means the same to a LaTeX parser.
    """
    if "$" in text:
        text = _DOLLAR.sub("", text)
    if not text.isascii():
        text = _ROOT.sub(lambda found: f"\\sqrt{{{found[1]}}}" if found[1] else "\\sqrt ", text.translate(_SIGNS))
    if "\\" in text or "{" in text:
        for pattern, replacement in _CLEANINGS:
            text = pattern.sub(replacement, text)
    text = _LEADING.sub("", text.replace("~", " ")).strip(" \t\r\n").rstrip(" \t\r\n.,;:")
    while text.startswith("{") and text.endswith("}") and _encloses(text):
        text = text[1:-1].strip(" \t\r\n").rstrip(" \t\r\n.,;:")
    return text


def _encloses(text: str) -> bool:
    """Whether the first brace of a text is closed by its last character."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return place == len(text) - 1 and "\\over" not in text
    return False


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


def phrase(text: str) -> str:
    r"""Writes a text without its `\text{...}`, and with single spaces."""
    return " ".join(_STYLED.sub(r" \1 ", text).split())


def as_words(text: str, styled: bool = False) -> str | None:
    r"""Reads an answer in words, among which there may be numbers and single letters (`n\text{ even}`, `June 20`).

    Args:
        text: An unwrapped answer.
        styled: Whether it stood in a `\text{...}`, so that two letters are a word and no product.

    Returns:
        The words, in lower case but for letters and labels (ABC); None if the text is anything else.
    """
    plain = phrase(text)
    if not _WORDS.fullmatch(plain):
        return None
    words = [word for word in _WORD.findall(plain) if word not in _CONNECTORS]
    styled = styled or "\\" in text
    if not any(len(word) > 3 or word.lower() in _PLAIN_WORDS or (styled and len(word) > 1) for word in words):
        return None
    folded = _WORD.sub(lambda found: _fold(found[0]), plain)
    return _SEPARATOR.sub(r"\1 ", folded).strip("\"`'’ ")


def _fold(word: str) -> str:
    if word.lower() in _PLAIN_WORDS:
        return word.lower()
    is_label = word.isupper() and len(word) < 6
    return word if len(word) == 1 or is_label else word.casefold()
