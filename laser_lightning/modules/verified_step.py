"""What a step of RISE is made of: solutions, and the policy's verifications of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from laser_lightning.records.rollout import Rollout, SampledStep
from laser_lightning.shapes import Float, Int


@dataclass
class VerifiedStep(SampledStep):
    """Solutions, and the policy's verifications of them; ``trained`` is both, in groups of one, solutions first.

    Attributes:
        verified: [M] problems whose solutions were verified.
        verifications: V = M * G * k verifications, in a group for each of the M * G solutions.
    """

    verified: Tensor
    verifications: Rollout

    @property
    def lesson(self) -> Rollout:
        """The solutions alone: they have groups, and rewards of the kind that baselines and spreads are about."""
        return self.sampled

    def trajectories_of(self, rows: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
        """[m] rows of ``trained``: some solutions, and the verifications of these.

        Args:
            rows: [n] the solutions.
        """
        solutions = torch.arange(len(self.sampled.rollouts), device=rows.device)
        verified = self.sampled.rows_of(self.verified).repeat_interleave(self.verifications.rollouts.group_size)
        return torch.isin(torch.cat((solutions, verified)), rows).nonzero().squeeze(-1)

    def counts(self) -> Float[Tensor, "4"]:
        """[4] float64: tokens of the verifications, their number, and how many are right and have a verdict."""
        made = self.verifications
        found = sum(verification.answer is not None for verification in made.verifications)
        counts = (made.rollouts.response_lengths.sum(), len(made.rollouts), made.rewards.sum(), found)
        return torch.tensor([float(count) for count in counts], dtype=torch.float64)


def take_judgements(rollout: Rollout, rows: Int[Tensor, " M"], judged: Rollout) -> None:
    """Put the judgements of some solutions into the round that they are of; others have none, which cost no token.

    Args:
        rollout: N solutions; its ``self_rewards``, ``scores`` and ``judging_tokens`` are replaced.
        rows: [M] those that were judged.
        judged: the same M, with their judgements.
    """
    rollout.self_rewards = torch.full_like(rollout.self_rewards, torch.nan)
    rollout.self_rewards[rows] = judged.self_rewards
    if judged.judging_tokens is not None:
        rollout.judging_tokens = torch.zeros_like(rollout.rollouts.response_lengths)
        rollout.judging_tokens[rows] = judged.judging_tokens
    if judged.scores is not None:
        rollout.scores = judged.scores.new_full((len(rollout.rollouts), judged.scores.shape[1]), torch.nan)
        rollout.scores[rows] = judged.scores
