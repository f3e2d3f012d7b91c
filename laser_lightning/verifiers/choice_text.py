r"""Which letter a response to a multiple-choice question chooses, read from the ways in which models write it.

Decoration of LaTeX and Markdown goes first. Then every letter of the choices becomes a mark, several in a row ("A, C",
"A or B") one mark, so that phrases are short patterns around a mark. What matches is a statement: it chooses letters,
or denies one. The last statement of a response counts, so that a second thought replaces the first, and one of several
letters chooses none.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from laser_lightning.verifiers.latex import last_boxed

_END_OF_THOUGHT = re.compile(r"</(?:think|thinking|reasoning|thought)>", re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"\n\s*(?:question|problem|q)\s*\d*\s*[:.]", re.IGNORECASE)
_TAG = re.compile(
    r"[<\[]\|?(?P<name>final[ _-]?answer|answer|choice|option|ans)\|?[>\]]\s*(?P<content>.*?)"
    r"(?:[<\[][/|]+\s*(?P=name)\|?[>\]]|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_BOX = r"\\(?:boxed|fbox)\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
_BETWEEN_BOXES = r"(?:[\s$,;&/]|\\text\s*\{[^{}]*\}|\\[()\[\],;]|\\q?quad|\b(?:and|or|as well as)\b)*"
_TWO_BOXES = re.compile(rf"{_BOX}{_BETWEEN_BOXES}{_BOX}(?!.*\\(?:boxed|fbox))", re.DOTALL)

_WRAPPED = re.compile(r"\\(?:text\w*|math\w+|mbox|boxed|fbox|operatorname|bold\w*|bf|underline)\s*\{([^{}]*)\}")
_DEEPEST = 5  # commands within commands, such as a bold text in a box
_SPACE = re.compile(r"\\(?:[,;:!\s]|q?quad(?![A-Za-z]))|~|<br\s*/?>|[^\S\n]+")
_DECORATION = re.compile(
    r"\\?\$|\\[()\[\]]|\\(?=\.)|\\(?:left|right|bf|rm|displaystyle)(?![A-Za-z])|[*`\"“”„«»‘]|(?<!\w)'(?=\w')|(?<=\w)'(?!\w)"
    r"|</?(?:b|strong|i|em|u|p|span|div|center)>|(?<![^\W_])_+|_+(?![^\W_])"
)

# Marks, of code points for private use: a letter as it stands, and one in brackets.
_BARE, _BRACKETED = "\ue000", "\ue001"
_MARK = f"[{_BARE}{_BRACKETED}]"

# A letter that goes on so is a word or a part of one, a name or a formula: "Double", "B-cell", "C++", "A = 2".
_NO_WORD = r"(?![A-Za-zÀ-ɏ0-9_'#^(\\°]|\+\+|-\w|\.\w|\s*[=^]|\s*[<>](?!/)|\s+[+*/]\s)"
# "A" and "I" are words as well. In front of another word they are choices only if it is one of these.
_BEHIND_A_CHOICE = (
    r"(?:is|was|are|and|or|because|since|as|due|for|by|with|but|not|rather|so|which|where|based|given|among|instead"
    r"|over|that|here)\b"
)

_QUALITY = r"(?:final|correct|right|best|true|proper|appropriate|accurate|likely|most|closest|only|chosen|selected)"
_ABOUT = r"(?:\s+(?:to|for|of|among|from|here|based|that|in)\b[^.!?\n:]{0,80}?|\s*\([^()\n]{0,40}\))?"
_NOUN = (
    rf"(?<!incorrect )(?<!wrong )(?<!other )(?:\b(?:answer|option|choice)s?'?{_ABOUT}|\b(?:letter|selection|pick|ans)\b"
    rf"|\b{_QUALITY}\s+(?:statement|response|alternative|one)\b)"
)
_IS = (
    r"(?:\s+(?:is|are|was)|'s|\s+(?:should|would|must|will|has\s+to|ought\s+to)(?:\s+\w+ly)?\s+be"
    r"|\s+(?:seems|appears|is\s+likely)\s+to\s+be)\b"
)
_IS_NOT = rf"(?:{_IS}\s+not\b|\s+(?:isn't|wasn't)|\s+(?:can't|cannot|can\s+not|couldn't|could\s+not)\s+be\b)"
_HEDGE = (
    rf"(?:\s|[:=>→]|-+(?=[\s>])|\b(?:{_QUALITY}|answer|option|choice|letter|alternative|the|an|number|one|clearly"
    r"|therefore|thus|then|hence|probably|definitely|obviously|indeed|simply|actually|certainly|surely|again|still|now"
    r"|just|both|either|also|as\s+follows|in\s+fact|of\s+course|given\s+by|labell?ed|marked|be)\b,?)*"
)
_ASKED = r"(?!\s*[.)]?\s*\?)"
_CLAUSE = (
    r"(?:^|[.,;:!?(-]\s*|\b(?:so|thus|therefore|hence|then|that|think|believe|guess|say|sure|confident|and|but)\s+)"
)
_CAUSE = r",?\s+(?:because|since|as\s+(?:it|this|that|all|the\s+other)s?)\b"
_LINE_ENDS = r"\s*[.!]?\s*$"
_PREFIX = r"(?:(?:the\s+)?(?:answer\s+)?(?:option|choice|answer|ans)\b\s*[.:]?\s*)?"

_CHOOSES = [
    # "the answer is C", "Answer: C", "the correct option should be C", "the answer is not B but C"
    rf"{_NOUN}(?:{_IS}|\s*[:=]|\s+-+|\s*-+>|\s*→)(?:\s+not\s+{_MARK},?\s+but\b)?{_HEDGE}"
    rf"(?P<mark>(?<!\n){_MARK}|{_MARK}(?!\s*\n\s*{_MARK})){_ASKED}",
    # "option C is correct", "C is the answer", "A and C are correct"
    rf"(?:{_CLAUSE}|\b(?:option|choice|answer|statement|letter|only|because)\s+)"
    rf"(?P<mark>{_MARK}){_IS}\s+(?:\w+ly\s+|indeed\s+)?(?:the\s+|my\s+|our\s+|an?\s+)?(?:{_QUALITY}\s+)*"
    rf"(?:correct|right|best|answers?|option|choice|one)\b{_ASKED}",
    # "I choose C", "I'd go with option C because"
    r"\b(?:I|we)(?:'d|'ll|'m|\s+(?:will|would|am|must|should|can))?\s+(?:\w+ly\s+|have\s+to\s+|now\s+|rather\s+)?"
    r"(?:choose|chose|pick|picked|select|selected|opt\s+for|say|answer|guess|think|believe|go(?:ing)?\s+(?:with|for)"
    rf"|went\s+with|settle\s+on)(?:\s+that)?{_HEDGE}(?P<mark>{_MARK}){_ASKED}(?=\s*[.;!)]|,?\s*$|{_CAUSE})",
    # "so it is C.", "Wait, it's C."
    rf"{_CLAUSE}(?:it|that|this){_IS}{_HEDGE}(?P<mark>{_MARK}){_ASKED}(?=\s*[.;!)]|,?\s*$|{_CAUSE})",
    # "Therefore, C." and "No, C." at the end of a line
    rf"\b(?:(?:therefore|thus|hence|so)\b[,:]?|(?:actually|wait|no)[,:.])\s+(?:the\s+)?(?:(?:option|choice)\s+)?"
    rf"(?P<mark>{_MARK}){_LINE_ENDS}",
    # "which is option C." and "#### C" at the end; "[[C]]"; "选C"
    rf"\b(?:which|this|that|it)\s+(?:is|matches|corresponds\s+to)\s+(?:the\s+)?(?:option|choice|answer)\s+(?P<mark>{_MARK})"
    r"\s*[.!]?\s*\Z",
    rf"\#{{4,}}\s*(?P<mark>{_MARK})\s*[.!]?\s*\Z",
    rf"\[(?P<mark>{_BRACKETED})\]",
    rf"(?:答案|选项|选择|选)(?:应该|应|就)?(?:是|为|选)?\s*:?\s*(?P<mark>{_MARK})",
]
_DENIES = [
    rf"{_NOUN}{_IS_NOT}{_HEDGE}(?P<mark>{_MARK})(?!,?\s+but\b)",
    rf"(?P<mark>{_MARK})(?:{_IS}\s+(?:\w+ly\s+)?(?:incorrect|wrong|false)|{_IS_NOT})\b",
]
_NOTHING = rf"{_NOUN}(?:{_IS}|\s*:)\s*(?:none|neither|unknown|not\s+(?:given|listed|among|here))\b"
# Right in front of a statement: what follows is asked, supposed, claimed or denied.
_NOT_SAID = re.compile(
    r"(?:\b(?:if|whether|unless|suppose|supposing|assume|assuming|imagine|doubt|deny|unlikely|impossible|untrue|neither"
    r"|nor|not|never|hardly|cannot|why|claims?|claimed)"
    r"|(?:\bnot|\bnever|n't)\s+(?:\w+\s+)?(?:think|believe|say|mean|sure|certain|true|clear|claim|convinced|agree))"
    rf"(?:\s+(?:that|if|whether))?,?\s+(?:(?:the|an|my|our|option|choice|answer|{_QUALITY})\s+)*$",
    re.IGNORECASE,
)


class Statement(NamedTuple):
    """What a part of a response says.

    Attributes:
        place: Where it stands.
        letters: The letters that it chooses.
        denied: The letters that it denies.
    """

    place: int
    letters: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()


class Marked:
    """A text with marks for letters.

    Args:
        text: Any text.
        choices: The letters to choose from, in upper case.

    Attributes:
        text: The text without decoration, a mark in the place of each letter or row of letters.
    """

    def __init__(self, text: str, choices: str) -> None:
        text = _plain(text)
        both = choices + choices.lower()
        words, others = ("".join(c for c in choices if (c in "AI") == is_word) for is_word in (True, False))
        bare = [rf"[{others}]{_NO_WORD}"] if others else []
        bare += [rf"[{words}]{_NO_WORD}(?!\s+(?!{_BEHIND_A_CHOICE})[a-zà-ɏ])"] if words else []
        # Lower-case letters with a parenthesis or at the end of a line, and several letters without a space.
        bare += [rf"(?<!\()[{choices.lower()}](?=\)|\s*\.?[^\S\n]*(?:\n|\Z))", rf"[{choices}]{{2,}}(?![A-Za-z0-9'-])"]
        mark = re.compile(
            rf"(?<![A-Za-z0-9])[(\[{{<]\s*([{both}])\s*[)\]}}>]|(?<![A-Za-zÀ-ɏ0-9_'.\\-])({'|'.join(bare)})"
        )
        self._letters: list[frozenset[str]] = []
        self.text = self._join(mark.sub(self._mark, text))

    def _mark(self, found: re.Match[str]) -> str:
        self._letters.append(frozenset((found[1] or found[2]).upper()))
        return _BRACKETED if found[1] else _BARE

    def _join(self, text: str) -> str:
        """Makes one mark of several in a row."""
        again = r"[^\S\n]*(?:(?:option|choice)[^\S\n]+)?"
        verb = r"(?![^\S\n]+(?:is|was|does|can|cannot|would|will|has|fails|says|states|seems|looks)\b)"
        listed = rf"(?:[^\S\n]*[,;/&+]|[^\S\n]){again}{_MARK}{verb}"
        linked = rf"[^\S\n]*,?[^\S\n]*\b(?:and/or|and|or|as well as)\b{again}{_MARK}"
        row = re.compile(rf"{_MARK}(?:{listed}|{linked})+", re.IGNORECASE)
        letters, place, number, joined = [], 0, 0, ""
        for found in [*row.finditer(text), None]:
            before = text[place : found.start() if found else len(text)]
            alone = len(re.findall(_MARK, before))
            letters += self._letters[number : number + alone]
            number += alone
            joined += before
            if found:
                together = len(re.findall(_MARK, found[0]))
                letters.append(frozenset().union(*self._letters[number : number + together]))
                number, joined, place = number + together, joined + _BARE, found.end()
        self._letters = letters
        return joined

    def letters(self, place: int) -> frozenset[str]:
        """The letters of the mark at a place in the text."""
        return self._letters[len(re.findall(_MARK, self.text[:place]))]


class ChoiceText:
    """Reads choices.

    Args:
        choices: The letters to choose from, in upper case.
    """

    _chooses = tuple(re.compile(pattern, re.IGNORECASE | re.MULTILINE) for pattern in _CHOOSES)
    _denies = tuple(re.compile(pattern, re.IGNORECASE) for pattern in _DENIES)
    _nothing = re.compile(_NOTHING, re.IGNORECASE)
    _alone = re.compile(rf"{_PREFIX}(?P<mark>{_MARK})\s*[.:)!,]*", re.IGNORECASE)
    # "(C) 12", "C. 12", "C: because", "C - a gene"
    _with_text = re.compile(
        rf"{_PREFIX}(?:(?P<bracketed>{_BRACKETED})\s*[.:,-]*|(?P<bare>{_BARE})(?:[.:)](?!\w)|,?\s+(?=(?:because|since|as)\b)"
        rf"|\s+[-→]+\s+(?!(?:[^\W\d]|{_MARK})\s*$)))\s*(?P<text>.*)",
        re.IGNORECASE | re.DOTALL,
    )
    _denied_or_listed = re.compile(
        rf"(?:is|was|are|isn't|can't|cannot|and|or|nor)\b|[,&/]|.*(?:^|\s)(?:{_BRACKETED}|{_BARE}[.)](?=\s|$))"
        r"|(?:this|that|it)?(?:\s*is\s+)?(?:incorrect|wrong)\b|.*\b(?:is\s+(?:incorrect|wrong|false)|eliminated?|too)\b",
        re.IGNORECASE | re.DOTALL,
    )

    def __init__(self, choices: str) -> None:
        self._choices = choices

    def choice(self, response: str) -> str | None:
        """The letter that a response chooses, in upper case; None if it chooses none, or several."""
        response = _END_OF_THOUGHT.split(response)[-1]
        # Base models go on with questions of their own, and answer those too.
        own = _NEXT_QUESTION.split(response)[0]
        return self._choice(own) or (self._choice(response) if own != response else None)

    def _choice(self, response: str) -> str | None:
        held: list[frozenset[str] | None] = []
        if pair := _TWO_BOXES.search(response):
            first, second = (self._held(content) for content in pair.groups())
            held.append(first | second if first and second else None)
        if boxed := last_boxed(response):
            held.append(self._held(boxed))
        if tags := _TAG.findall(response):
            held.append(self._held(tags[-1][1]))
        found = [letters for letters in held if letters is not None]
        return _single(found[0] if found else self._said(Marked(response, self._choices)))

    def _held(self, text: str) -> frozenset[str] | None:
        """The letters that a box or a tag holds; None if it holds something else."""
        marked = Marked(text, self._choices)
        for candidate in (marked, Marked(text.upper(), self._choices)):
            if found := self._alone.fullmatch(candidate.text.strip()):
                return candidate.letters(candidate.text.index(found["mark"]))
        return self._said(marked) or None

    def _said(self, marked: Marked) -> frozenset[str]:
        chosen: frozenset[str] = frozenset()
        for statement in sorted(self._statements(marked), key=lambda one: one.place):
            if not statement.denied:
                chosen = statement.letters
            elif chosen == statement.denied:
                chosen = frozenset()
        return chosen

    def _statements(self, marked: Marked) -> Iterator[Statement]:
        text = marked.text
        for pattern in self._chooses:
            for found in pattern.finditer(text):
                mark = found.start("mark")
                if not any(_NOT_SAID.search(text[max(0, place - 60) : place]) for place in (found.start(), mark)):
                    yield Statement(mark, letters=marked.letters(mark))
        for pattern in self._denies:
            for found in pattern.finditer(text):
                yield Statement(found.start("mark"), denied=marked.letters(found.start("mark")))
        for found in self._nothing.finditer(text):
            yield Statement(found.start())
        yield from self._lines(marked)

    def _lines(self, marked: Marked) -> Iterator[Statement]:
        """A first line that begins with a letter, and a last line that is one or begins with one."""
        lines = [found for found in re.finditer(r"[^\n]+", marked.text) if found[0].strip(" \t#>")]
        starts = [self._with_text.match(line[0].strip(" \t#>")) for line in lines]
        if not lines:
            return

        def mark(line: re.Match[str]) -> int:
            found = re.search(_MARK, line[0])
            assert found is not None
            return line.start() + found.start()

        def chooses(number: int) -> bool:
            start = starts[number]
            return start is not None and not self._denied_or_listed.match(start["text"])

        # A list of the options chooses none of them.
        alone = [self._alone.fullmatch(line[0].strip(" \t#>")) for line in lines]
        if (alone[0] or chooses(0)) and not any(starts[1:]) and not any(alone[1:]):
            yield Statement(0, letters=marked.letters(mark(lines[0])))
        if len(lines) > 1 and (alone[-1] or chooses(-1)) and not (starts[-2] or alone[-2]):
            yield Statement(mark(lines[-1]), letters=marked.letters(mark(lines[-1])))


def _single(letters: frozenset[str]) -> str | None:
    return next(iter(letters)) if len(letters) == 1 else None


def _plain(text: str) -> str:
    """A text without the decoration of LaTeX, Markdown and HTML, in its lines."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").replace("—", " - ")
    text = re.sub(r"[‐‑–−]", "-", text)
    for _ in range(_DEEPEST):
        text = _WRAPPED.sub(r"\1", text)
    return _SPACE.sub(" ", _DECORATION.sub("", _SPACE.sub(" ", text)))
