"""Several verifiers, one for each kind of problem."""

from collections.abc import Mapping
from typing import Any

from laser_lightning.verifiers.base import Explanation, Submission, Verification, Verifier


class MixedVerifier(Verifier):
    """Judges each problem by the verifier that its row names, in the column `verifier_column` of the data source.

    Args:
        verifiers: The verifiers by name. The names are the values of the column.
        default: Name of the verifier for rows that name none; null refuses such rows.
    """

    def __init__(self, verifiers: dict[str, Verifier], default: str | None = None) -> None:
        if not verifiers:
            raise ValueError("`verifiers` is empty: give at least one verifier a name.")
        for name, verifier in verifiers.items():
            if isinstance(verifier, MixedVerifier):
                raise ValueError(f"The verifier {name!r} is a MixedVerifier too: put its verifiers here.")
        if default is not None and default not in verifiers:
            raise ValueError(f"`default` is {default!r}, and the verifiers are {', '.join(verifiers)}.")
        self.verifiers, self.default = verifiers, default
        self.canonical_decides = all(verifier.canonical_decides for verifier in verifiers.values())

    @property
    def own_seconds(self) -> float:
        """That of the slowest of its verifiers."""
        return max(verifier.own_seconds for verifier in self.verifiers.values())

    @property
    def reward_names(self) -> tuple[str, ...]:
        """The names of all its verifiers' reward functions."""
        return tuple(dict.fromkeys(name for one in self.verifiers.values() for name in one.reward_names))

    @property
    def sees_all(self) -> bool:
        """Whether one of its verifiers does."""
        return any(verifier.sees_all for verifier in self.verifiers.values())

    def named(self, name: str | None) -> Verifier:
        """The verifier of this name.

        Args:
            name: What the row of a problem names; None if it names none.

        Returns:
            The verifier; the default one for None.

        Raises:
            ValueError: If there is none of this name, or no default.
        """
        wanted = self.default if name is None else name
        if wanted is None:
            raise ValueError("names no verifier, and the MixedVerifier has no `default`")
        if wanted not in self.verifiers:
            raise ValueError(f"names the verifier {name!r}, which the MixedVerifier does not have")
        return self.verifiers[wanted]

    # Without a name, it does all that a verifier does as its default one.

    def extract(self, response: str) -> str | None:
        """Finds the final answer, by the default verifier."""
        return self.named(None).extract(response)

    def equivalent(self, answer: str, gold: str) -> bool:
        """Compares two answers, by the default verifier."""
        return self.named(None).equivalent(answer, gold)

    def canonical(self, answer: str) -> str:
        """Writes an answer in the canonical form of the default verifier."""
        return self.named(None).canonical(answer)

    def verify(self, submission: Submission) -> Verification:
        """Judges a response by the verifier that its problem names."""
        return self.named(submission.verifier).verify(submission)

    def reward(self, response: str, gold: str) -> float:
        """Rewards a response, by the default verifier."""
        return self.named(None).reward(response, gold)

    def explain(self, response: str, gold: str) -> Explanation:
        """Rewards a response and says why, by the default verifier."""
        return self.named(None).explain(response, gold)

    def check_gold(self, gold: str) -> None:
        """Refuses a gold answer that no response can match, by the default verifier."""
        self.named(None).check_gold(gold)

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuses a row by which no response can be judged, by the default verifier."""
        self.named(None).check_row(row)
