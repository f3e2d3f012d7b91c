"""One round: problems, their sampled solutions, and what the verifier and the model itself say of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.records.batching import Rollouts, concat_solutions, numbers_of, stacked
from laser_lightning.shapes import Bool, Float, Int, Shaped
from laser_lightning.verifiers import Verification


@dataclass
class Rollout:
    """What a training or evaluation step sampled; callbacks read it as ``module.last_rollout``.

    P problems with G solutions each, N = P * G.

    Attributes:
        problems: P problems.
        rollouts: their N solutions.
        texts: N responses as text, without special tokens.
        verifications: N verdicts of the verifier.
        rewards: [N] float32 verifier rewards.
        references: [N, K] log pi_ref(z given x, y) with an exact reference, else None.
        self_rewards: [N] float32, 0 for truncated solutions; NaN where the model was not asked for its judgement.
        reference_log_probs: [N, R] log-probs of the response tokens under the reference, with an exact one, else None.
        seconds: wall time of sampling and judging, on this rank; 0 where it was not measured.
        scores: [N, S] float32 all scores of each solution, NaN for absent ones, where it was judged several times and
            ``self_rewards`` is what they come to; None where that is the only one.
        judging_tokens: [N] int64 tokens that the model wrote to judge each solution, -1 where that is not known; None
            where it judges by the score behind ``<eos>``, for which it writes none.
    """

    problems: Sequence[Problem]
    rollouts: Rollouts
    texts: list[str]
    verifications: list[Verification]
    rewards: Float[Tensor, " N"]
    references: Float[Tensor, "N K"] | None
    self_rewards: Float[Tensor, " N"]
    reference_log_probs: Float[Tensor, "N R"] | None = None
    seconds: float = 0.0
    scores: Float[Tensor, "N S"] | None = None
    judging_tokens: Int[Tensor, " N"] | None = None

    def problem_of(self, row: int) -> Problem:
        """The problem that solution ``row`` answers."""
        return self.problems[row // self.rollouts.group_size]

    def grouped(self, values: Shaped[Tensor, " N"]) -> Shaped[Tensor, "P G"]:
        """[N] values as [P, G], a row per problem."""
        return values.view(len(self.problems), -1)

    @property
    def policy_rewards(self) -> Float[Tensor, " N"]:
        """[N] rewards that the policy is trained on: the verifier's, or their weighted sum where there are several."""
        given = [verification.policy_reward for verification in self.verifications]
        found = [math.nan if reward is None else reward for reward in given]
        several = torch.tensor(found, dtype=torch.float32, device=self.rewards.device)
        return several.where(~several.isnan(), self.rewards)

    def train_on(self, rewards: Float[Tensor, " N"]) -> None:
        """Put other rewards in the place of those that the policy is trained on; the verifier's own stay as they are.

        Args:
            rewards: [N].
        """
        pairs = zip(self.verifications, rewards.tolist(), strict=True)
        self.verifications = [verification._replace(policy_reward=reward) for verification, reward in pairs]

    @property
    def has_signal(self) -> Bool[Tensor, " P"]:
        """[P] bool: groups whose rewards are not all equal."""
        rewards = self.grouped(self.policy_rewards)
        return (rewards != rewards[:, :1]).any(dim=1)

    def select(self, problems: Int[Tensor, " M"] | Bool[Tensor, " P"]) -> "Rollout":
        """The round of some problems alone, in their order.

        Args:
            problems: [M] their numbers, or [P] bool: a mask of them.
        """
        problems = numbers_of(problems, len(self.problems))
        rows = self.rows_of(problems)
        return Rollout(
            [self.problems[number] for number in problems.tolist()],
            self.rollouts.select(problems),
            [self.texts[row] for row in rows.tolist()],
            [self.verifications[row] for row in rows.tolist()],
            self.rewards[rows],
            None if self.references is None else self.references[rows],
            self.self_rewards[rows],
            None if self.reference_log_probs is None else self.reference_log_probs[rows],
            scores=None if self.scores is None else self.scores[rows],
            judging_tokens=None if self.judging_tokens is None else self.judging_tokens[rows],
        )

    def to(self, device: torch.device) -> "Rollout":
        """The same round on a device."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in held.items() if isinstance(value, (Tensor, Rollouts))
        }
        return replace(self, **moved)

    def ungrouped(self) -> "Rollout":
        """The same N solutions as a round of N problems with one solution each."""
        problems = [self.problem_of(row) for row in range(len(self.rollouts))]
        return replace(self, problems=problems, rollouts=self.rollouts.ungrouped())

    def rows_of(self, problems: Int[Tensor, " M"] | Bool[Tensor, " P"]) -> Int[Tensor, " rows"]:
        """[M * G] solutions of the given problems: [M] their numbers, or [P] bool."""
        problems = numbers_of(problems, len(self.problems))
        group = torch.arange(self.rollouts.group_size, device=problems.device)
        return (problems[:, None] * self.rollouts.group_size + group).flatten()


@dataclass
class SampledStep:
    """What a training step sampled.

    Attributes:
        sampled: all of it, which metrics count.
        trained: what of it is trained on; the same, unless ``sampling_rounds`` asks for more. Then groups of other
            ranks can be among it.
        chosen: [M] which groups ``trained`` begins with, of those of all ranks: group i of rank r has the number
            i * ranks + r. None for all of this rank.
    """

    sampled: Rollout
    trained: Rollout
    chosen: Int[Tensor, " M"] | None = field(default=None, kw_only=True)

    @property
    def lesson(self) -> Rollout:
        """What the parts of the objective learn from: groups that are all of ``trained``, or that it begins with."""
        return self.trained


def concat_rollouts(first: Rollout, second: Rollout) -> Rollout:
    """Two rounds of the same module as one, the problems of the first in front."""

    def both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
        return None if one is None or other is None else stacked((one, other))

    return Rollout(
        [*first.problems, *second.problems],
        concat_solutions((first.rollouts, second.rollouts)),
        first.texts + second.texts,
        first.verifications + second.verifications,
        stacked((first.rewards, second.rewards)),
        both(first.references, second.references),
        stacked((first.self_rewards, second.self_rewards)),
        both(first.reference_log_probs, second.reference_log_probs),
        first.seconds + second.seconds,
        both(first.scores, second.scores),
        both(first.judging_tokens, second.judging_tokens),
    )
