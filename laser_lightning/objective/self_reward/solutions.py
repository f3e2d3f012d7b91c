"""What the weights and the target of the self-rewarding loss may look at: the solutions of one optimizer step."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from laser_lightning.objective.context import StepContext
from laser_lightning.records.rollout import Rollout
from laser_lightning.shapes import Bool, Float, Int

CORRECT_THRESHOLD = 0.5
"""Rewards above this count as correct; self-rewards above it are the verdict "correct"."""


@dataclass(frozen=True)
class StepSolutions:
    """The solutions of one optimizer step on this rank: P problems with G solutions each.

    Attributes:
        rewards: [P, G] the verifier's, before any shaping.
        finished: [P, G] bool; the others have no ``<eos>`` to be judged at.
        self_rewards: [P, G] scores of the rollout, 0 for truncated solutions and others that are not ``judged``.
        rollout: what was sampled, of which an optimizer step may train on a part: texts, lengths, problems, log-probs.
        rows: [P, G] int64, which solutions of ``rollout`` these are.
        context: the step's number, the processes, and log-probs that no gradient reaches.
    """

    rewards: Float[Tensor, "P G"]
    finished: Bool[Tensor, "P G"]
    self_rewards: Float[Tensor, "P G"]
    rollout: Rollout
    rows: Int[Tensor, "P G"]
    context: StepContext

    @classmethod
    def of(cls, rollout: Rollout, rows: Int[Tensor, " M"], context: StepContext) -> "StepSolutions":
        """Gather the solutions [M] of an optimizer step, those of a problem next to each other."""
        grouped = rows.view(-1, rollout.rollouts.group_size)
        rewards, finished = rollout.rewards[grouped], rollout.rollouts.finished[grouped]
        return cls(rewards, finished, rollout.self_rewards[grouped], rollout, grouped, context)

    @property
    def judged(self) -> Bool[Tensor, "P G"]:
        """[P, G] bool: the finished ones with a score (see ``is_judged``)."""
        return self.finished & is_judged(self.rollout)[self.rows]

    @property
    def is_mixed(self) -> Bool[Tensor, " P"]:
        """[P] bool: groups with both correct and incorrect solutions among the finished ones."""
        correct = self.rewards > CORRECT_THRESHOLD
        return (self.finished & correct).any(dim=1) & (self.finished & ~correct).any(dim=1)

    def on_rollout(self, values: Float[Tensor, "P G"]) -> Float[Tensor, " N"]:
        """Put values [P, G] of these solutions in their places among all N of the rollout: [N], 0 for the others."""
        placed = values.new_zeros(len(self.rollout.rollouts))
        placed[self.rows] = values
        return placed


class Supervision(NamedTuple):
    """What the self-rewarding loss trains each solution's self-reward towards.

    Attributes:
        targets: [B] float32.
        weights: [B] float32, what the solution's error weighs; 0 where it is left out, as every truncated one is.
    """

    targets: Float[Tensor, " B"]
    weights: Float[Tensor, " B"]


def is_judged(rollout: Rollout) -> Bool[Tensor, " N"]:
    """[N] bool: solutions whose self-reward is a judgement.

    It is 0 for truncated ones, and for finished ones of which an engine returned a log-prob that is no number; and NaN
    where the model was not asked.

    Args:
        rollout: the N solutions.
    """
    read = [rollout.rollouts.reward_token_log_probs, rollout.references]
    known = [values.isfinite().all(dim=1) for values in read if values is not None]
    return torch.stack([rollout.rollouts.finished, ~rollout.self_rewards.isnan(), *known]).all(dim=0)


def class_counts(rewards: Float[Tensor, "*shape"], finished: Bool[Tensor, "*shape"]) -> Int[Tensor, "2"]:
    """[2] int64: finished incorrect and finished correct solutions."""
    return torch.bincount((rewards > CORRECT_THRESHOLD)[finished].long(), minlength=2)


def zero_if_truncated(self_rewards: Float[Tensor, " N"], finished: Bool[Tensor, " N"]) -> Float[Tensor, " N"]:
    """[N] self-rewards with 0 for truncated solutions, which have no ``<eos>`` to be judged at."""
    return self_rewards.where(finished, 0.0)
