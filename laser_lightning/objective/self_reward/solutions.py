"""What the weights and the target of the self-rewarding loss may look at: the solutions of one optimizer step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:  # the scorer does without the trainer
    from laser_lightning.distributed.ranks import Ranks
    from laser_lightning.records.rounds import Round

CORRECT_THRESHOLD = 0.5
"""Rewards above this count as correct; self-rewards above it are the verdict "correct"."""


@dataclass(frozen=True)
class StepSolutions:
    """The solutions of one optimizer step on this rank: P problems with G solutions each.

    Attributes:
        rewards: [P, G] the verifier's, before any shaping.
        finished: [P, G] bool; the others have no ``<eos>`` to be judged at.
        self_rewards: [P, G] scores of the rollout, 0 for truncated solutions.
        round: what was sampled, of which an optimizer step may train on a part: texts, lengths, problems, log-probs.
        rows: [P, G] int64, which solutions of ``round`` these are.
        step: optimizer steps before this one.
        ranks: sums, maxima and stacks over the processes; all ranks use it together.
    """

    rewards: Tensor
    finished: Tensor
    self_rewards: Tensor
    round: "Round"
    rows: Tensor
    step: int
    ranks: "Ranks"

    @classmethod
    def of(cls, round_: "Round", rows: Tensor, step: int, ranks: "Ranks") -> "StepSolutions":
        """Gather the solutions [M] of an optimizer step, those of a problem next to each other."""
        grouped = rows.view(-1, round_.rollouts.group_size)
        rewards, finished = round_.rewards[grouped], round_.rollouts.finished[grouped]
        return cls(rewards, finished, round_.self_rewards[grouped], round_, grouped, step, ranks)

    def on_round(self, values: Tensor) -> Tensor:
        """Put values [P, G] of these solutions in their places among all N of the round: [N], 0 for the others."""
        placed = values.new_zeros(len(self.round.rollouts))
        placed[self.rows] = values
        return placed


class Supervision(NamedTuple):
    """What the self-rewarding loss trains each solution's self-reward towards.

    Attributes:
        targets: [B] float32.
        weights: [B] float32, what the solution's error weighs; 0 where it is left out, as every truncated one is.
    """

    targets: Tensor
    weights: Tensor


def class_counts(rewards: Tensor, finished: Tensor) -> Tensor:
    """[2] int64: finished incorrect and finished correct solutions."""
    return torch.bincount((rewards > CORRECT_THRESHOLD)[finished].long(), minlength=2)


def settled_scores(self_rewards: Tensor, finished: Tensor) -> Tensor:
    """[N] self-rewards with 0 for truncated solutions, which have no ``<eos>`` to be judged at."""
    return self_rewards.where(finished, 0.0)
