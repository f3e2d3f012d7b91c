"""What a verifier is: the judge of a response's final answer."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple


class Verification(NamedTuple):
    """What a verifier said about one response.

    Attributes:
        reward: The outcome reward; 0.0 when the verifier failed.
        answer: The canonical extracted answer; None if the response has none, or the verifier failed.
        error: Why the verifier failed ("timed out after 3 s", "ValueError: ..."); None if it did not.
    """

    reward: float
    answer: str | None
    error: str | None = None


class Verifier(ABC):
    """Judges the final answer of a response. Instances are pickled into worker processes.

    Attributes:
        canonical_decides: Whether answers with different canonical texts are never equivalent, so that voting needs no
            comparison of pairs.

    A subclass says how to find the final answer (`extract`) and when two answers agree (`equivalent`). One
    whose reward is not simply right or wrong overrides `reward` as well.
    """

    canonical_decides: ClassVar[bool] = False

    @abstractmethod
    def extract(self, response: str) -> str | None:
        """Finds the final answer of a response.

        Args:
            response: The text that the model wrote, without its prompt.

        Returns:
            The final answer as text, or None if there is none.
        """

    @abstractmethod
    def equivalent(self, answer: str, gold: str) -> bool:
        """Decides whether two answers agree.

        Args:
            answer: An extracted answer.
            gold: The gold answer, or another extracted answer.

        Returns:
            True if they are the same answer.
        """

    def canonical(self, answer: str) -> str:
        """Writes an extracted answer in a canonical form: equal strings are equivalent answers.

        The reverse need not hold. Votes are grouped by it.

        Args:
            answer: An extracted answer.

        Returns:
            The canonical text.
        """
        return answer.strip()

    def is_settled(self, canonical: str) -> bool:
        """Whether two such answers are equivalent only if their texts are equal, so that voting need not compare them.

        Args:
            canonical: A canonical answer.

        Returns:
            True if that holds between it and every other answer for which this is True.
        """
        return self.canonical_decides

    def reward(self, response: str, gold: str) -> float:
        """Rewards a response.

        Args:
            response: The text that the model wrote, without its prompt.
            gold: The gold answer.

        Returns:
            1.0 if the response has a final answer that is equivalent to `gold`, else 0.0. A subclass may
            return any finite number.
        """
        answer = self.extract(response)
        return float(answer is not None and self.equivalent(answer, gold))

    def check_gold(self, gold: str) -> None:
        """Refuses a gold answer that no response can ever match. Called for every problem before training.

        Args:
            gold: The gold answer.

        Raises:
            ValueError: If no response can match `gold`.
        """
        if not gold.strip():
            raise ValueError("The gold answer is empty.")
