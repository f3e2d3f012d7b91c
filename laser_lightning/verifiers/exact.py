"""The verifier for answers that are compared as text."""

import re

from laser_lightning.verifiers.base import Decision, Verifier


class ExactVerifier(Verifier):
    r"""Judges answers by comparing text, stripped of surrounding white space.

    Args:
        pattern: A regular expression with one group; the final answer is what the group holds in the last
            match, for instance `#### (.+)`. By default the final answer is the whole response.
        ignore_case: Whether answers that differ only in case agree.
    """

    canonical_decides = True

    def __init__(self, pattern: str = "", ignore_case: bool = False) -> None:
        self.pattern = pattern
        self.ignore_case = ignore_case
        if not pattern:
            return
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"`pattern` is not a regular expression: {pattern!r}: {error}.") from error
        if groups != 1:
            raise ValueError(
                f"`pattern` must have exactly one group, which holds the answer, but {pattern!r} has "
                f"{groups}: add one, or write (?:...) for those that only group."
            )

    def extract(self, response: str) -> str | None:
        """Finds the final answer.

        Args:
            response: The text that the model wrote, without its prompt.

        Returns:
            The stripped answer, or None if the pattern does not match or there is no text in its group.
        """
        if not self.pattern:
            return response.strip() or None
        answer = None
        for match in re.finditer(self.pattern, response):
            answer = match.group(1)
        return (answer or "").strip() or None

    def equivalent(self, answer: str, gold: str) -> bool:
        """Compares two answers as text.

        Args:
            answer: An extracted answer.
            gold: The gold answer.

        Returns:
            True if their canonical texts are equal.
        """
        return self.decide(answer, gold).equivalent

    def decide(self, answer: str, gold: str) -> Decision:
        """Compares two answers as text, and says so.

        Args:
            answer: An extracted answer.
            gold: The gold answer.

        Returns:
            The decision.
        """
        equal = self.canonical(answer) == self.canonical(gold)
        return Decision(equal, "equal texts" if equal else "different texts")

    def canonical(self, answer: str) -> str:
        """Strips an answer, and folds its case if case is ignored.

        Args:
            answer: An extracted answer.

        Returns:
            The canonical text.
        """
        return answer.strip().casefold() if self.ignore_case else answer.strip()
