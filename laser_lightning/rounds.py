"""One round: problems, their sampled solutions, and what the verifier and the model itself say of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laser_lightning.batching import Rollouts
from laser_lightning.data.problem import Problem
from laser_lightning.verifiers import Verification


@dataclass
class Round:
    """What a training or evaluation step sampled; callbacks read it as ``module.last_round``.

    P problems with G solutions each, N = P * G.

    Attributes:
        problems: P problems.
        rollouts: their N solutions.
        texts: N responses as text, without special tokens.
        verifications: N verdicts of the verifier.
        rewards: [N] float32 verifier rewards.
        references: [N] log pi_ref(z_c given x, y) with an exact reference, else None.
        self_rewards: [N] float32, 0 for truncated solutions.
        reference_log_probs: [N, R] log-probs of the response tokens under the reference, with an exact one, else None.
    """

    problems: Sequence[Problem]
    rollouts: Rollouts
    texts: list[str]
    verifications: list[Verification]
    rewards: Tensor
    references: Tensor | None
    self_rewards: Tensor
    reference_log_probs: Tensor | None = None

    def problem_of(self, row: int) -> Problem:
        """The problem that solution ``row`` answers."""
        return self.problems[row // self.rollouts.group_size]

    def grouped(self, values: Tensor) -> Tensor:
        """[N] values as [P, G], a row per problem."""
        return values.view(len(self.problems), -1)

    def rows_of(self, problems: Tensor) -> Tensor:
        """[M * G] solutions of the given problems [M]."""
        group = torch.arange(self.rollouts.group_size, device=problems.device)
        return (problems[:, None] * self.rollouts.group_size + group).flatten()
