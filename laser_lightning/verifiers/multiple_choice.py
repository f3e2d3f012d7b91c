"""The verifier for multiple-choice questions."""

import re

from laser_lightning.verifiers.base import Decision, Verifier
from laser_lightning.verifiers.latex import clean, last_boxed

# What may stand between "answer is" and the letter: emphasis, math mode, a font command.
_FILLER = r"[\s:*_$]*(?:\\[\[(]\s*)?(?:(?:option|choice)\s+)?[*_$]*(?:\\[a-z]+\s*\{\s*)?"
_WRAPPED = re.compile(r"\\[a-z]+\s*\{([^{}]*)\}")


class MultipleChoiceVerifier(Verifier):
    r"""Judges answers that are one letter of a multiple-choice question.

    The final answer is the letter in the last `\boxed{...}`, or else the last one in a phrase such as "the
    answer is (C)", "Answer: C" or "the correct option is C", or else the response itself if it is just a
    letter. In such a phrase a lower-case letter counts only in parentheses ("the answer is a number" chooses
    nothing).

    Args:
        choices: The letters to choose from, for instance "ABCD".
    """

    canonical_decides = True

    def __init__(self, choices: str = "ABCD") -> None:
        self.choices = choices.upper()
        if not re.fullmatch("[A-Z]{2,}", self.choices) or len(set(self.choices)) < len(self.choices):
            raise ValueError(f"`choices` must be two or more different letters, such as 'ABCD', not {choices!r}.")

    def extract(self, response: str) -> str | None:
        """Finds the chosen letter.

        Args:
            response: The text that the model wrote, without its prompt.

        Returns:
            The letter in upper case, or None if no choice is made.
        """
        boxed = last_boxed(response)
        if boxed is not None and (letter := self._letter(boxed, may_continue=True)):
            return letter
        upper, lower = self.choices, self.choices.lower()
        phrase = re.compile(
            rf"\b(?i:(?:answer|option|choice)\s*(?:is\b|:){_FILLER})"
            rf"(?:\(([{upper}{lower}])\)|([{upper}])(?![\w'’]))"
        )
        chosen = [parenthesised or bare for parenthesised, bare in phrase.findall(response)]
        return chosen[-1].upper() if chosen else self._letter(response)

    def equivalent(self, answer: str, gold: str) -> bool:
        """Compares two letters.

        Args:
            answer: A letter.
            gold: The gold letter, perhaps in parentheses.

        Returns:
            True if they are the same letter.
        """
        return self.decide(answer, gold).equivalent

    def decide(self, answer: str, gold: str) -> Decision:
        """Compares two letters, and says what they are.

        Args:
            answer: A letter.
            gold: The gold letter, perhaps in parentheses.

        Returns:
            The decision.
        """
        letter, gold_letter = self._letter(answer), self._letter(gold)
        if letter is None or gold_letter is None:
            return Decision(False, f"the {'answer' if letter is None else 'gold answer'} is no letter of the choices")
        return Decision(letter == gold_letter, "equal letters" if letter == gold_letter else "different letters")

    def canonical(self, answer: str) -> str:
        """Writes a letter in upper case without parentheses.

        Args:
            answer: An extracted answer.

        Returns:
            The canonical letter.
        """
        return self._letter(answer) or answer.strip()

    def check_gold(self, gold: str) -> None:
        """Refuses a gold answer that is not one of the choices.

        Args:
            gold: The gold answer.

        Raises:
            ValueError: If it is not one letter of `choices`, perhaps in parentheses.
        """
        if self._letter(gold) is None:
            raise ValueError(f"The gold answer {gold!r} is not one of the letters {', '.join(self.choices)}.")

    def _letter(self, text: str, may_continue: bool = False) -> str | None:
        """The letter that a text consists of, or, if it may continue, begins with: "(C) 12", "C: because"."""
        text = _WRAPPED.sub(r"\1", clean(text)).strip(" *_")
        letter, more = f"([{self.choices}])", ".*" if may_continue else ""
        found = re.fullmatch(rf"(?is:\({letter}\){more}|{letter}(?:[.:)]{more})?)", text)
        return (found.group(1) or found.group(2)).upper() if found else None
