"""What a verifier is: the judge of a response's final answer."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

from laser_lightning.arguments import Part

_NOTHING: Mapping[str, Any] = {}  # a plain one, which can be pickled


class Submission(NamedTuple):
    """A response with all that is known of its problem.

    Attributes:
        response: The text that the model wrote, without its prompt.
        gold: The gold answer.
        verifier: Which of a `MixedVerifier`'s verifiers judges it; None for its default, and for other verifiers.
        problem: The problem's text as in the source.
        prompt: The text that the model was given, after the template.
        row: All columns of the problem's row in the source; empty where there is no row, as in votes.
    """

    response: str
    gold: str
    verifier: str | None = None
    problem: str = ""
    prompt: str = ""
    row: Mapping[str, Any] = _NOTHING

    def column(self, name: str) -> Any:
        """Reads a column of the row.

        Args:
            name: Its name, or the path to a value in a nested one, with dots (`reward_model.ground_truth`).

        Returns:
            The value as the source has it.

        Raises:
            ValueError: If there is no such column.
        """
        return column(self.row, name)


def column(row: Mapping[str, Any], name: str) -> Any:
    """Reads a column of a row, as `Submission.column` does."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"the row has no column {name!r}; it has {', '.join(map(str, row)) or 'none at all'}")
        value = value[part]
    return value


class Verification(NamedTuple):
    """What a verifier said about one response.

    Attributes:
        reward: The outcome reward; 0.0 when the verifier failed. What the self-reward learns, and what metrics count.
        answer: The canonical extracted answer; None if the response has none, or the verifier failed.
        error: Why the verifier failed ("timed out after 3 s", "ValueError: ..."); None if it did not.
        rewards: What each of several reward functions said, by name; None for one that failed. Empty for a verifier
            that is one function.
        policy_reward: What the policy is trained on where that is not `reward`, as with several reward functions.
    """

    reward: float
    answer: str | None
    error: str | None = None
    rewards: Mapping[str, float | None] = _NOTHING
    policy_reward: float | None = None


class Decision(NamedTuple):
    """Whether an answer agrees with another one.

    Attributes:
        equivalent: The decision.
        rule: What decided, in words.
    """

    equivalent: bool
    rule: str


class Explanation(NamedTuple):
    """How a verifier came to its reward.

    Attributes:
        reward: The reward.
        extracted: The final answer as the response has it; None if there is none.
        answer: The extracted answer in canonical form; None if there is none.
        gold: The gold answer in canonical form.
        rule: What decided, in words.
    """

    reward: float
    extracted: str | None
    answer: str | None
    gold: str
    rule: str


class Verifier(Part, ABC):
    """Judges the final answer of a response. Instances are pickled into worker processes.

    Attributes:
        canonical_decides: Whether answers with different canonical texts are never equivalent, so that voting needs no
            comparison of pairs.

    A subclass says how to find the final answer (`extract`) and when two answers agree (`equivalent`). One
    whose reward is not simply right or wrong overrides `reward` as well, and one that can tell which of its rules
    decided overrides `decide` and lets `equivalent` ask it. One that looks at more than the response and the gold
    answer overrides `verify`, which is given the problem, the prompt and all columns of the row.
    """

    canonical_decides: bool = False

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

    def canonical_gold(self, gold: str) -> str:
        """Writes a gold answer in a canonical form.

        Args:
            gold: The gold answer.

        Returns:
            The canonical text.
        """
        return self.canonical(gold)

    def decide(self, answer: str, gold: str) -> Decision:
        """Decides as `equivalent` does, and says by which rule.

        Args:
            answer: An extracted answer.
            gold: The gold answer, or another extracted answer.

        Returns:
            The decision.
        """
        return Decision(self.equivalent(answer, gold), f"{type(self).__name__}.equivalent")

    @property
    def own_seconds(self) -> float:
        """The longest that it waits by time limits of its own, such as those of an endpoint or a program.

        The pool's limit for a response comes on top.
        """
        return 0.0

    @property
    def reward_names(self) -> tuple[str, ...]:
        """Names of the reward functions that it consists of; empty for one that is a single function."""
        return ()

    @property
    def sees_all(self) -> bool:
        """Whether it looks at more than the response and the gold answer: at the problem, the prompt or the row."""
        return type(self).verify is not Verifier.verify

    @property
    def has_own_reward(self) -> bool:
        """Whether the reward is something else than 1.0 for an equivalent answer and 0.0 for others."""
        return type(self).reward is not Verifier.reward or self.sees_all

    def verify(self, submission: Submission) -> Verification:
        """Judges a response with all that is known of its problem.

        Args:
            submission: The response, its gold answer, problem, prompt and row.

        Returns:
            The reward and the canonical answer.
        """
        answer = self.extract(submission.response)
        reward = self.reward(submission.response, submission.gold)
        return Verification(reward, None if answer is None else self.canonical(answer))

    def reward(self, response: str, gold: str) -> float:
        """Rewards a response.

        Args:
            response: The text that the model wrote, without its prompt.
            gold: The gold answer.

        Returns:
            1.0 if the response has a final answer that is equivalent to `gold`, else 0.0. A subclass may
            return any finite number.
        """
        if self.sees_all:
            return self.verify(Submission(response, gold)).reward
        answer = self.extract(response)
        return float(answer is not None and self.equivalent(answer, gold))

    def explain(self, response: str, gold: str) -> Explanation:
        """Rewards a response as `reward` does, and says why.

        Args:
            response: The text that the model wrote, without its prompt.
            gold: The gold answer.

        Returns:
            The reward with what was compared and what decided.
        """
        reward, answer = self.reward(response, gold), self.extract(response)
        canonical = None if answer is None else self.canonical(answer)
        if self.has_own_reward:
            rule = f"{type(self).__name__}.{'verify' if self.sees_all else 'reward'}"
        elif answer is None:
            rule = "the response has no final answer"
        else:
            decision = self.decide(answer, gold)
            # A subclass may override `equivalent` alone; then the rules of its parent did not decide.
            agrees = decision.equivalent == (reward == 1.0)
            rule = decision.rule if agrees else f"{type(self).__name__}.equivalent"
        return Explanation(reward, answer, canonical, self.canonical_gold(gold), rule)

    def named(self, name: str | None) -> "Verifier":
        """The verifier that judges a problem.

        Args:
            name: What the problem's row names in its column of verifiers; None if it names none.

        Returns:
            This one, unless it holds several (`MixedVerifier`).

        Raises:
            ValueError: If there is no verifier of this name.
        """
        if name is not None:
            raise ValueError(f"names the verifier {name!r}, and {type(self).__name__} is not a MixedVerifier")
        return self

    def check_gold(self, gold: str) -> None:
        """Refuses a gold answer that no response can ever match. Called for every problem before training.

        Args:
            gold: The gold answer.

        Raises:
            ValueError: If no response can match `gold`.
        """
        if not gold.strip():
            raise ValueError("The gold answer is empty.")

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuses a row by which no response can be judged. Called for every problem before training, if `sees_all`.

        Args:
            row: All columns of the problem's row in the source.

        Raises:
            ValueError: If the row lacks something, or what it has cannot be used.
        """
