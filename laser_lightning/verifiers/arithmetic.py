"""The verifier of the embedded task: it follows the calculations that a response writes out."""

import re
from collections import Counter

from laser_lightning.verifiers.base import Decision, Verifier

_NUMBER = "([0-9]{1,18})"  # Python refuses to read numbers of thousands of digits
_STEP = re.compile(rf"{_NUMBER}([-+*]){_NUMBER}={_NUMBER}")


class ArithmeticVerifier(Verifier):
    """Judges calculations: a number behind ``#``, or steps such as ``7*3=21;21+5=26``.

    The answer of steps is where they lead, and from which numbers: the canonical form of the example is ``3,5,7>26``.
    So different ways with the same numbers to the same result are one answer, and the gold answer of a countdown
    problem is its numbers in order and its target. A step whose result is wrong, or is not used, leads nowhere: the
    answer is then the text itself, which no gold answer equals.
    """

    canonical_decides = True

    def extract(self, response: str) -> str | None:
        """Finds the final answer.

        Args:
            response: The text that the model wrote, without its prompt.

        Returns:
            What stands behind the last ``#``; without one, the whole text. None if that is empty.
        """
        return response.rpartition("#")[2].strip() or None

    def equivalent(self, answer: str, gold: str) -> bool:
        """Compares two answers by their canonical texts.

        Args:
            answer: An extracted answer.
            gold: The gold answer, or another extracted answer.

        Returns:
            True if they are equal.
        """
        return self.decide(answer, gold).equivalent

    def decide(self, answer: str, gold: str) -> Decision:
        """Compares two answers, and says what was found.

        Args:
            answer: An extracted answer.
            gold: The gold answer, or another extracted answer.

        Returns:
            The decision.
        """
        reached, wanted = self.canonical(answer), self.canonical(gold)
        if reached == wanted:
            return Decision(True, "equal results of the same numbers")
        return Decision(False, f"leads to {reached}, not to {wanted}")

    def canonical(self, answer: str) -> str:
        """Writes where steps lead.

        Args:
            answer: An extracted answer.

        Returns:
            The numbers that the steps use, in order, and the last result, such as ``3,5,7>26``; the stripped answer
            where it is not a chain of true steps to one result.
        """
        return _follow(answer) or answer.strip()


def _follow(answer: str) -> str | None:
    """Where steps lead; None where they lead nowhere."""
    used: Counter[int] = Counter()
    results: Counter[int] = Counter()
    last = 0
    for written in answer.strip().split(";"):
        step = _STEP.fullmatch(written)
        if step is None:
            return None
        left, right, last = int(step[1]), int(step[3]), int(step[4])
        if last != {"+": left + right, "-": left - right, "*": left * right}[step[2]]:
            return None
        for number in (left, right):
            if results[number]:
                results[number] -= 1
            else:
                used[number] += 1
        results[last] += 1
    if results.total() != 1:
        return None
    return ",".join(map(str, sorted(used.elements()))) + f">{last}"
