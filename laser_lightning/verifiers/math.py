"""The verifier for mathematical answers."""

import re

from laser_lightning.verifiers.agreement import agree, is_readable
from laser_lightning.verifiers.answers import Based, Items, Value, Words, read_answer
from laser_lightning.verifiers.base import Decision, Verifier
from laser_lightning.verifiers.boxes import boxed_answer, last_boxed
from laser_lightning.verifiers.final_answer import find_final_answer
from laser_lightning.verifiers.latex import as_words, clean, squeeze, unwrap
from laser_lightning.verifiers.numbers import Number

# Where a response without a box is searched for its final answer.
_TAIL_CHARACTERS = 4000
# Longer ones are degenerate text, over which computer algebra can brood for minutes.
_LONGEST_ANSWER = 1000
# A gold answer of several sentences, or of more than a line that cannot be read, is a solution and no answer.
_LONGEST_UNREAD = 150
_MOST_WORDS = 25
_EXACT_NUMBER = re.compile(r"-?\d+(?:/\d+)?")
_SENTENCES = re.compile(r"(?<![A-Z])(?<!\bMr)(?<!\bDr)(?<!\bSt)(?<!\bMs)(?<!\bMrs)[a-z\d)$}][.!?]\s+[A-Z]")
_SOLUTION = re.compile(r"####|<<[^<>]*>>|\n\s*\n")


class MathVerifier(Verifier):
    r"""Judges answers that are numbers, expressions, tuples, sets, intervals, matrices, equations or words.

    The final answer is the content of the last `\boxed{...}` with balanced braces, together with boxes before it that a
    comma, `and` or `or` joins to it. Equal spellings agree. Plain numbers are compared exactly, but a decimal agrees
    with a fraction to six places and a percentage p% with the bare numbers p and p/100; a unit may be left out, but
    not differ. Words are compared without regard to case, letters and labels of points with it. Tuples keep their
    order, lists and sets do not, an assignment `x=5` agrees with `5`. Expressions are compared by computer algebra
    (sympy); one that has several readings, or none, agrees with its own spelling only.

    Computer algebra can take forever; use a `VerifierPool` for anything that a model wrote.

    Args:
        require_box: Whether a response without a box has no answer. By default its answer is then what stands behind
            the last "the answer is", "Answer:" or "####", or else the last formula or number, in its last 4,000
            characters.
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
        boxed = boxed_answer(response, _canonical)
        if boxed is not None:
            return boxed if self.canonical(boxed) else None
        return None if self.require_box else find_final_answer(response[-_TAIL_CHARACTERS:])

    def equivalent(self, answer: str, gold: str) -> bool:
        r"""Decides whether an answer agrees with the gold answer.

        Args:
            answer: An extracted answer.
            gold: The gold answer, bare or in a `\boxed{...}`, or another extracted answer. The two are not
                quite interchangeable: digits without a base may answer a number with one, not the reverse.

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
        answer, gold = clean(_unboxed(answer)), clean(_unboxed(gold))
        if _canonical(answer) == _canonical(gold):
            return Decision(True, "equal canonical forms")
        if max(len(answer), len(gold)) > _LONGEST_ANSWER:
            return Decision(False, f"other spelling, and over {_LONGEST_ANSWER} characters")
        read, gold_read = read_answer(answer), read_answer(gold)
        return Decision(agree(read, gold_read), _rule(read, gold_read))

    def canonical(self, answer: str) -> str:
        r"""Writes an answer in a canonical form: equal strings are equivalent answers.

        Args:
            answer: An extracted answer.

        Returns:
            A number as an integer or a fraction in lowest terms (0.5, `\frac{1}{2}` and 2/4 are all "1/2") with its
            unit, words in lower case, anything else cleaned of differences in spelling.
        """
        return _canonical(_unboxed(answer))

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
        return self.canonical(gold)

    def check_gold(self, gold: str) -> None:
        r"""Refuses a gold answer that no response can match.

        A gold answer of one line that cannot be read is kept: a response that spells it alike still matches.

        Args:
            gold: The gold answer, bare or in a `\boxed{...}`.

        Raises:
            ValueError: If it has neither a letter nor a digit, its braces do not balance, or it is a whole solution:
                several sentences or lines, or a long text that cannot be read.
        """
        answer = clean(_unboxed(gold))
        if not any(character.isalnum() for character in _canonical(answer)):
            raise ValueError(f"The gold answer {gold!r} has neither a letter nor a digit.")
        if "\\boxed" in answer or last_boxed(f"\\boxed{{{answer}}}") != answer:
            raise ValueError(f"The gold answer {gold!r} has an empty box, or braces that do not balance.")
        if _is_solution(answer):
            shown = gold if len(gold) <= _LONGEST_UNREAD else f"{gold[:_LONGEST_UNREAD]}..."
            raise ValueError(
                f"The gold answer {shown!r} is a text, not an answer that a response could match. Name the column of "
                "final answers in answer_column, or say with answer_pattern where it stands in the text (GSM8K: "
                r"'####\s*(.+)')."
            )


def _is_solution(answer: str) -> bool:
    if _SOLUTION.search(answer) or _SENTENCES.search(answer):
        return True
    if len(answer) > _LONGEST_ANSWER:
        return True
    return len(answer) > _LONGEST_UNREAD and not is_readable(read_answer(answer), _MOST_WORDS)


def _unboxed(answer: str) -> str:
    boxed = boxed_answer(answer, _canonical) if "box" in answer else None
    return answer if boxed is None else boxed


def _canonical(answer: str) -> str:
    cleaned = clean(answer)
    text = unwrap(cleaned)
    if number := Number.parse(text):
        return str(number)
    return as_words(text, styled=len(text) < len(cleaned)) or squeeze(text)


def _rule(answer: object, gold: object) -> str:
    """What decided between two answers whose canonical forms differ."""
    if isinstance(answer, Value) and isinstance(gold, Value) and answer.number and gold.number:
        return "two plain numbers"
    if isinstance(answer, Words) and isinstance(gold, Words):
        return "other words"
    if isinstance(answer, Based) and isinstance(gold, Based):
        return "other digits, or another base"
    if isinstance(answer, Items) and isinstance(gold, Items) and {answer.kind, gold.kind} == {"set", "tuple"}:
        return "a set is no tuple and no interval"
    sides = (("the answer", answer), ("the gold answer", gold))
    unread = [side for side, read in sides if not isinstance(read, Words) and not is_readable(read, _MOST_WORDS)]
    return f"computer algebra cannot read {' and '.join(unread)}" if unread else "computer algebra"
