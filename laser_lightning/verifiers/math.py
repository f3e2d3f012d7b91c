"""The verifier for mathematical answers, on math-verify."""

import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from sympy import Mul, Rational, UnevaluatedExpr

from laser_lightning.verifiers.base import Decision, Verifier
from laser_lightning.verifiers.latex import (
    Number,
    as_intervals,
    clean,
    is_prose,
    is_set,
    is_tuple,
    is_union,
    last_boxed,
    squeeze,
    unwrap,
)

# Where a response without a box is searched for its final answer. Some of math-verify's patterns take
# quadratic time.
_TAIL_CHARACTERS = 4000
# Longer ones are degenerate text, over which a parser can brood for minutes.
_LONGEST_ANSWER = 1000
_EXACT_NUMBER = re.compile(r"-?\d+(?:/\d+)?")
# A number with its base, which math-verify drops.
_BASED = re.compile(r"[0-9A-Fa-f]+_(?:\d|\{\d+\})")
# A list whose order would be lost beside a tuple.
_BARE_LIST = re.compile(r"[^()\[\]=]*,[^()\[\]=]*")
_EMPHASIS = re.compile(r"(?:(?<=\s)|^)\*\*(?=\S)|(?<=\S)\*\*(?=[\s.,;:!?)]|$)|</?answer>")


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Timeout is disabled")


# math-verify's own time limits need the main thread and cannot interrupt C code. The pool sets a hard limit,
# so the warning about their absence is false here; other messages pass.
logging.getLogger("math_verify.parser").addFilter(_is_news)
logging.getLogger("math_verify.grader").addFilter(_is_news)


@lru_cache(maxsize=256)
def _parse(text: str) -> list[Any]:
    """Parses a cleaned answer: [sympy expression, text], or [text] if it is not mathematics."""
    # "first_match": the whole answer or nothing, never the one part of it that happens to parse.
    return parse(f"\\boxed{{{text}}}", [LatexExtractionConfig()], extraction_mode="first_match", parsing_timeout=None)


def _is_text(parsed: list[Any]) -> bool:
    """Whether math-verify found no mathematics."""
    return all(isinstance(part, str) for part in parsed)


def _is_percentage(expression: Any) -> bool:
    return isinstance(expression, Mul) and UnevaluatedExpr(Rational(1, 100)) in expression.args


class MathVerifier(Verifier):
    r"""Judges answers that are numbers, expressions, tuples, sets, intervals, matrices, equations or words.

    The final answer is the content of the last `\boxed{...}` with balanced braces. Equal spellings agree;
    plain numbers are compared exactly, but a decimal agrees with a fraction to six places and a percentage
    p% with the bare numbers p and p/100; words are compared without regard to case. Everything else is
    decided by math-verify (https://github.com/huggingface/Math-Verify) in its strict mode: tuples keep their
    order, lists and sets do not, units are dropped, an assignment `x=5` agrees with `5`.

    Computer algebra can take forever; use a `VerifierPool` for anything that a model wrote.

    Args:
        require_box: Whether a response without a box has no answer. By default its answer is then the last
            expression or number in its last 4,000 characters, as math-verify finds it.
    """

    def __init__(self, require_box: bool = False) -> None:
        self.require_box = require_box

    def extract(self, response: str) -> str | None:
        """Finds the final answer of a response.

        Args:
            response: The text that the model wrote, without its prompt.

        Returns:
            The final answer as written, or None if there is none. What is in a box counts as an answer even
            if it is no mathematics, because gold answers can be words.
        """
        boxed = last_boxed(response)
        if boxed is not None:
            return boxed if self.canonical(boxed) else None
        return None if self.require_box else self._last_expression(response[-_TAIL_CHARACTERS:])

    def _last_expression(self, text: str) -> str | None:
        found = parse(
            _EMPHASIS.sub(" ", text),
            [LatexExtractionConfig(), ExprExtractionConfig()],
            extraction_mode="first_match",
            parsing_timeout=None,
        )
        answer = clean(found[-1]) if found else ""
        if len(answer) > _LONGEST_ANSWER or _is_text(_parse(answer)):
            return None
        # math-verify leaves the percent sign out of the text that it reports.
        return answer + r"\%" if _is_percentage(found[0]) and "%" not in answer else answer

    def equivalent(self, answer: str, gold: str) -> bool:
        r"""Decides whether an answer agrees with the gold answer.

        Args:
            answer: An extracted answer.
            gold: The gold answer, bare or in a `\boxed{...}`, or another extracted answer. The two are not
                quite interchangeable: an interval may answer an inequality, but only an inequality that bounds a
                single letter (`2 < x \le 7`) may answer an interval, since others may just repeat the problem.

        Returns:
            True if they agree. An answer that computer algebra cannot compare, or of more than 1,000
            characters, agrees only with an equal spelling.
        """
        return self.decide(answer, gold).equivalent

    def decide(self, answer: str, gold: str) -> Decision:
        """Decides whether an answer agrees with the gold answer, and says by which rule.

        Args:
            answer: An extracted answer.
            gold: As in `equivalent`.

        Returns:
            The decision.
        """
        if self.canonical(answer) == self.canonical_gold(gold):
            return Decision(True, "equal canonical forms")
        answer, gold = clean(answer), _bare(gold)
        words, gold_words = unwrap(answer), unwrap(gold)
        number, gold_number = Number.parse(words), Number.parse(gold_words)
        if number and gold_number:
            return Decision(number.agrees(gold_number), "two plain numbers")
        if len(answer) > _LONGEST_ANSWER:
            return Decision(False, f"other spelling, and over {_LONGEST_ANSWER} characters")
        if is_prose(words) and is_prose(gold_words):
            return Decision(False, "other words")
        if _BASED.fullmatch(words) and _BASED.fullmatch(gold_words):
            return Decision(False, "other digits, or another base")
        if is_union(gold) and (intervals := as_intervals(answer)):
            decision = self.decide(intervals, gold)
            return Decision(decision.equivalent, f"{decision.rule}, of the inequality as intervals")
        # math-verify takes (1,2) for the set of both.
        if (is_set(gold) and is_tuple(answer)) or (is_tuple(gold) and is_set(answer)):
            return Decision(False, "a set is no tuple and no interval")
        if is_tuple(gold) and _BARE_LIST.fullmatch(answer):
            decision = self.decide(f"({answer})", gold)
            return Decision(decision.equivalent, f"{decision.rule}, of the list as a tuple")
        # A plain fraction goes in its canonical form: math-verify misreads "1 1/2".
        readable = answer if number is None or number.decimal else str(number)
        gold_readable = gold if gold_number is None or gold_number.decimal else str(gold_number)
        parsed, gold_parsed = _parse(readable), _parse(gold_readable)
        unread = [side for side, found in (("the answer", parsed), ("the gold answer", gold_parsed)) if _is_text(found)]
        rule = f"computer algebra cannot read {' and '.join(unread)}" if unread else "computer algebra"
        return Decision(verify(gold_parsed, parsed, timeout_seconds=None), rule)

    def canonical(self, answer: str) -> str:
        r"""Writes an answer in a canonical form: equal strings are equivalent answers.

        Args:
            answer: An extracted answer.

        Returns:
            A number as an integer or a fraction in lowest terms (0.5, `\frac{1}{2}` and 2/4 are all "1/2"),
            words in lower case, anything else cleaned of differences in spelling.
        """
        text = unwrap(clean(answer))
        if number := Number.parse(text):
            return str(number)
        return text.casefold() if is_prose(text) else squeeze(text)

    def is_settled(self, canonical: str) -> bool:
        """Whether it is an integer or a fraction in lowest terms, of which no two are the same number.

        Args:
            canonical: A canonical answer.
        """
        return _EXACT_NUMBER.fullmatch(canonical) is not None

    def canonical_gold(self, gold: str) -> str:
        r"""Writes a gold answer in canonical form.

        Args:
            gold: The gold answer, bare or in a `\boxed{...}`.

        Returns:
            The canonical text of what it says.
        """
        return self.canonical(_bare(gold))

    def check_gold(self, gold: str) -> None:
        r"""Refuses a gold answer that no response can match.

        A gold answer that math-verify cannot read is kept: a response that spells it alike still matches.

        Args:
            gold: The gold answer, bare or in a `\boxed{...}`.

        Raises:
            ValueError: If it has neither a letter nor a digit, or its braces do not balance.
        """
        answer = _bare(gold)
        if not any(character.isalnum() for character in self.canonical(answer)):
            raise ValueError(f"The gold answer {gold!r} has neither a letter nor a digit.")
        if "\\boxed" in answer or last_boxed(f"\\boxed{{{answer}}}") != answer:
            raise ValueError(f"The gold answer {gold!r} has an empty box, or braces that do not balance.")


def _bare(gold: str) -> str:
    boxed = last_boxed(gold)
    return clean(gold if boxed is None else boxed)
