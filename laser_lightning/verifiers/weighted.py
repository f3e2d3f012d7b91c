"""Several reward functions, added up."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laser_lightning.verifiers.base import Decision, Submission, Verification, Verifier
from laser_lightning.verifiers.judge import Judge
from laser_lightning.verifiers.mixed import MixedVerifier


@dataclass
class WeightedReward:
    """One of several reward functions.

    Args:
        verifier: The function.
        weight: What its reward is multiplied by in the policy's reward; 0 only logs it.
    """

    verifier: Verifier
    weight: float = 1.0


class WeightedRewards(Verifier):
    """Trains the policy on a weighted sum of rewards, of which one says whether the answer is right.

    Only `target`'s own reward, without its weight, is the outcome: the self-reward is trained to predict it, pass@k,
    votes and all other metrics count it, and its verifier finds the answers. The weighted sum is what the policy's
    advantages are made of, and nothing else. Each reward is logged as `train/reward/<name>`.

    A function that fails on a response adds nothing to its sum, and the response is counted among the verifier's
    failures; where `target` fails, the outcome is 0 as well.

    Args:
        rewards: The reward functions, with their weights, by name.
        target: Name of the one that says whether an answer is right.
    """

    def __init__(self, rewards: dict[str, WeightedReward], target: str) -> None:
        for name, reward in rewards.items():
            if not re.fullmatch(r"\w[\w-]*", name):
                raise ValueError(f"A reward is named {name!r}: a name consists of letters, digits, _ and -.")
            if isinstance(reward.verifier, MixedVerifier | WeightedRewards):
                kind = type(reward.verifier).__name__
                raise ValueError(f"The reward {name!r} is a {kind}: put WeightedRewards into a MixedVerifier instead.")
            if not abs(reward.weight) < float("inf"):
                raise ValueError(f"The weight of the reward {name!r} is {reward.weight}, and must be a finite number.")
        if target not in rewards:
            raise ValueError(f"`target` is {target!r}, and the rewards are {', '.join(rewards) or 'none at all'}.")
        self.rewards, self.target = rewards, target
        self._outcome = rewards[target].verifier
        self.canonical_decides = self._outcome.canonical_decides
        self._judges = {name: Judge(reward.verifier) for name, reward in rewards.items()}

    @property
    def reward_names(self) -> tuple[str, ...]:
        """The names of the rewards."""
        return tuple(self.rewards)

    @property
    def own_seconds(self) -> float:
        """That of all functions together: they run one after the other."""
        return sum(reward.verifier.own_seconds for reward in self.rewards.values())

    def verify(self, submission: Submission) -> Verification:
        """Judges a response by every function.

        Args:
            submission: The response, its gold answer, problem, prompt and row.

        Returns:
            The target's reward and answer, the reward of each function, and their weighted sum.
        """
        submission = submission._replace(verifier=None)  # the name of these rewards, in a MixedVerifier
        found = {name: judge.verify(*submission) for name, judge in self._judges.items()}
        values = {name: None if one.error else one.reward for name, one in found.items()}
        errors = [f"{name}: {one.error}" for name, one in found.items() if one.error]
        total = sum(self.rewards[name].weight * value for name, value in values.items() if value is not None)
        outcome = found[self.target]
        return Verification(outcome.reward, outcome.answer, "; ".join(errors) or None, values, float(total))

    # All but the rewards is done as the target does it.

    def extract(self, response: str) -> str | None:
        """Finds the final answer, by the target's verifier."""
        return self._outcome.extract(response)

    def equivalent(self, answer: str, gold: str) -> bool:
        """Compares two answers, by the target's verifier."""
        return self._outcome.equivalent(answer, gold)

    def decide(self, answer: str, gold: str) -> Decision:
        """Compares two answers and says by which rule, by the target's verifier."""
        return self._outcome.decide(answer, gold)

    def canonical(self, answer: str) -> str:
        """Writes an answer in the canonical form of the target's verifier."""
        return self._outcome.canonical(answer)

    def canonical_gold(self, gold: str) -> str:
        """Writes a gold answer in the canonical form of the target's verifier."""
        return self._outcome.canonical_gold(gold)

    def is_settled(self, canonical: str) -> bool:
        """Whether texts decide, for the target's verifier."""
        return self._outcome.is_settled(canonical)

    def check_gold(self, gold: str) -> None:
        """Refuses a gold answer that no response can match, by the verifiers of all functions."""
        for reward in self.rewards.values():
            reward.verifier.check_gold(gold)

    def check_row(self, row: Mapping[str, Any]) -> None:
        """Refuses a row by which one of the functions can judge no response."""
        for reward in self.rewards.values():
            reward.verifier.check_row(row)
