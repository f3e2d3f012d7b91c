"""What the reward functions of a step said, each by its name, and the stop of a run in which one never works."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.records.rollout import Rollout
from laser_lightning.verifiers import MixedVerifier, Verification, Verifier


@dataclass(frozen=True)
class RewardCount:
    """What one reward function said in a step, over all ranks.

    Attributes:
        responses: number of responses that it was asked about.
        failures: number of those on which it failed.
        total: sum of its rewards; 0 where it failed.
    """

    responses: float
    failures: float
    total: float


@dataclass(frozen=True)
class RewardCounts:
    """What the reward functions said in a step.

    Attributes:
        counts: of each function, by its name; a verifier that is one function goes by the name of its class, or by its
            name in a ``MixedVerifier``.
        logged: names of those that are logged.
        policy_reward: mean of what the policy is trained on; None where that is the verifier's reward.
    """

    counts: Mapping[str, RewardCount]
    logged: Sequence[str]
    policy_reward: float | None

    def values(self) -> dict[str, float]:
        """The metrics ``train/reward/<name>``, means over the responses that a function was asked about."""
        values = {} if self.policy_reward is None else {"train/policy_reward": self.policy_reward}
        for name in self.logged:
            if (count := self.counts[name]).responses:
                values[f"train/reward/{name}"] = count.total / count.responses
        return values


def count_rewards(rollout: Rollout, verifier: Verifier, ranks: Ranks) -> RewardCounts:
    """Count what the reward functions said of a round; all ranks must call it together.

    Args:
        rollout: N solutions of this rank.
        verifier: that judged them.
        ranks: the processes that train together.
    """
    names = _function_names(verifier)
    table = torch.zeros(len(names) + 1, 3, dtype=torch.float64)
    for row, verification in enumerate(rollout.verifications):
        for name, reward in _said(verifier, rollout.problem_of(row).verifier, verification).items():
            table[names.index(name)] += torch.tensor([1.0, reward is None, reward or 0.0], dtype=torch.float64)
    table[-1] = torch.tensor([len(rollout.rollouts), 0.0, float(rollout.policy_rewards.double().sum())])
    *rows, (solutions, _, total) = ranks.sum(table.to(rollout.rewards.device)).tolist()
    counts = {name: RewardCount(*row) for name, row in zip(names, rows, strict=True)}
    other = bool(verifier.reward_names) or any(one.policy_reward is not None for one in rollout.verifications)
    return RewardCounts(counts, verifier.reward_names, total / solutions if other else None)


class FailingRewards:
    """Notices reward functions that fail on every response of a step, several steps in a row.

    Args:
        max_steps: number of such steps at which the run shall stop.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self._in_a_row: dict[str, int] = {}

    def count(self, rewards: RewardCounts, errors: Sequence[str]) -> str | None:
        """Count a step.

        Args:
            rewards: what the functions said in it. One that was not asked about any response keeps its count.
            errors: the verifier's latest ones on this rank.

        Returns:
            Why the run must stop, as a part of a sentence; None if it need not.
        """
        for name, count in rewards.counts.items():
            if count.responses:
                failed = count.failures == count.responses
                self._in_a_row[name] = self._in_a_row.get(name, 0) + 1 if failed else 0
        failing = [name for name, steps in self._in_a_row.items() if steps >= self.max_steps]
        if not failing:
            return None
        several = f"the reward function{'s' * (len(failing) > 1)} {', '.join(failing)}"
        return (
            f"{several} failed on every response of {self.max_steps} steps in a row (verification.max_failing_steps), "
            f"the last time because: {errors[-1] if errors else 'an error on another rank'}"
        )


def _function_names(verifier: Verifier) -> list[str]:
    if not isinstance(verifier, MixedVerifier):
        return list(verifier.reward_names or (type(verifier).__name__,))
    found = (one.reward_names or (name,) for name, one in verifier.verifiers.items())
    return list(dict.fromkeys(name for names in found for name in names))


def _said(verifier: Verifier, name: str | None, verification: Verification) -> Mapping[str, float | None]:
    if verification.rewards:
        return verification.rewards
    if isinstance(verifier, MixedVerifier):
        function = name or verifier.default or ""
    else:
        function = type(verifier).__name__
    return {function: None if verification.error else verification.reward}
