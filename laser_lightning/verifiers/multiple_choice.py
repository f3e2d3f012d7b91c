"""The verifier for multiple-choice questions."""

import re

from laser_lightning.verifiers.base import Decision, Verifier
from laser_lightning.verifiers.choice_text import ChoiceText
from laser_lightning.verifiers.latex import clean

_WRAPPED = re.compile(r"\\[a-z]+\s*\{([^{}]*)\}")


class MultipleChoiceVerifier(Verifier):
    r"""Judges answers that are one letter of a multiple-choice question.

    The final answer is the letter in the last `\boxed{...}`; or else in the last `<answer>` tag; or else the one that
    the response says last, in a phrase ("the answer is (C)", "Answer: C", "option C is correct", "I choose C"), in a
    line of its own, or with its text where it begins ("(C) 12"). What stands in front of `</think>` is no answer.

    Nothing is chosen where two letters are ("Answer: A, C"), where a letter is denied or only supposed ("the answer is
    not A", "if the answer is A"), or where it is a word or a part of one ("I think", "A number", "C++"). A lower-case
    letter counts in a box or a tag, in parentheses, or at the end of a line.

    Args:
        choices: The letters to choose from, for instance "ABCD".
    """

    canonical_decides = True

    def __init__(self, choices: str = "ABCD") -> None:
        self.choices = choices.upper()
        if not re.fullmatch("[A-Z]{2,}", self.choices) or len(set(self.choices)) < len(self.choices):
            raise ValueError(f"`choices` must be two or more different letters, such as 'ABCD', not {choices!r}.")
        self._text = ChoiceText(self.choices)

    def extract(self, response: str) -> str | None:
        """Finds the chosen letter.

        Args:
            response: The text that the model wrote, without its prompt.

        Returns:
            The letter in upper case, or None if no choice is made.
        """
        return self._text.choice(response)

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

    def _letter(self, text: str) -> str | None:
        """The letter that a text consists of: "C", "(C)", "C."."""
        text = _WRAPPED.sub(r"\1", clean(text)).strip(" *_")
        found = re.fullmatch(rf"(?i:\(([{self.choices}])\)|([{self.choices}])[.:)]?)", text)
        return (found.group(1) or found.group(2)).upper() if found else None
