"""What a training step reports: the ``train/...`` metrics, right over all ranks and micro-batches."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from laser_lightning.distributed.parts import StepParts
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.metrics import pair_counts
from laser_lightning.objective.context import FixedLogProbs
from laser_lightning.objective.objective import LossTerms, Objective
from laser_lightning.objective.phases import Phase
from laser_lightning.objective.self_reward.head import SelfRewardHead
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.objective.sums import Sums
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import MicroBatch, Rollouts
from laser_lightning.records.rollout import Rollout

PROGRESS_BAR = {
    "reward": "train/reward",
    "f1": "train/self_reward/f1",
    "length": "train/response_length_tokens",
    "tokens/s": "train/tokens_per_second",
}
"""Short names under which the progress bar shows the most telling metrics."""


@dataclass(frozen=True)
class Mismatch(Sums):
    """How far the engine's log-probs are from the trainer's own of the same tokens and weights.

    Attributes:
        tokens: scalar, sum of absolute distances over trained tokens.
        compared_tokens: scalar, their number.
        scores: scalar, the same of the tokens behind ``<eos>``, over finished solutions.
        compared_scores: scalar, their number.
    """

    tokens: Tensor
    compared_tokens: Tensor
    scores: Tensor
    compared_scores: Tensor

    @classmethod
    def between(cls, outputs: PolicyOutputs, batch: MicroBatch, rollouts: Rollouts) -> "Mismatch":
        """Compare a micro-batch.

        Args:
            outputs: of the trainer.
            batch: B solutions.
            rollouts: what the engine said of them, among others.
        """
        rows, mask = batch.rows, batch.loss_mask
        tokens = (outputs.log_probs.detach() - rollouts.sampling_log_probs[rows, : mask.shape[1]]).abs()
        read = rollouts.reward_token_log_probs[rows]  # the first of the tokens, where the loss reads more
        scores = (outputs.reward_token_log_probs.detach()[:, : read.shape[1]] - read).abs()
        return cls._over(tokens, mask, scores, rollouts.finished[rows, None] & read.isfinite())

    @classmethod
    def before_update(cls, log_probs: FixedLogProbs, rollouts: Rollouts) -> "Mismatch":
        """Compare a whole round with the pass of the policy that its update starts from.

        Args:
            log_probs: ``old`` ones, of N solutions.
            rollouts: what the engine said of them.
        """
        assert log_probs.old is not None
        assert log_probs.old_reward_tokens is not None
        read = rollouts.reward_token_log_probs
        tokens, scores = log_probs.old - rollouts.sampling_log_probs, log_probs.old_reward_tokens - read
        known = rollouts.finished[:, None] & read.isfinite()
        return cls._over(tokens.abs(), rollouts.trained_mask, scores.abs(), known)

    @classmethod
    def _over(cls, tokens: Tensor, mask: Tensor, scores: Tensor, known: Tensor) -> "Mismatch":
        return cls(tokens.where(mask, 0.0).sum(), mask.sum(), scores.where(known, 0.0).sum(), known.sum())

    def values_by_name(self) -> dict[str, float]:
        """Mean distances."""
        return {
            "mismatch/token_log_prob": float(self.tokens / self.compared_tokens.clamp(min=1)),
            "mismatch/reward_token_log_prob": float(self.scores / self.compared_scores.clamp(min=1)),
        }


@dataclass(frozen=True)
class UpdateSums(Sums):
    """What the micro-batches of an optimizer step add up to on this rank.

    Attributes:
        terms: of the loss.
        mismatch: None where the rollout sees more than one optimizer step, so that weights have changed since: there
            the pass before the first one is compared.
    """

    terms: LossTerms
    mismatch: Mismatch | None


class StepWarnings:
    """Says what a user should know of a step and might not look for in the metrics.

    Args:
        max_response_tokens: where responses are cut.
        reward_token: the token that no response should contain; that some do is said once.
    """

    def __init__(self, max_response_tokens: int, reward_token: str) -> None:
        self.max_response_tokens, self.reward_token = max_response_tokens, reward_token
        self._told_emission = False

    def tell(self, values: Mapping[str, float | Tensor], step: int, verifier_errors: Sequence[str]) -> None:
        """Warn of one step.

        Args:
            values: its metrics.
            step: its number.
            verifier_errors: the latest ones on this rank.
        """
        if values["train/truncation_rate"] == 1:
            rank_zero_warn(
                f"All responses of step {step} were cut at sampling.max_response_tokens = "
                f"{self.max_response_tokens} (or at the limit of the curriculum's stage): none has a self-reward to "
                "learn from."
            )
        if values["train/reward_token_emitted"] and not self._told_emission:
            self._told_emission = True
            rank_zero_warn(
                f"In step {step} {values['train/reward_token_emitted']:.2%} of the responses contain the reward token "
                f"'{self.reward_token}', which normal text should not; the metric train/reward_token_emitted "
                "says how many do from here on."
            )
        if values["train/mismatch/non_finite"]:
            rank_zero_warn(
                f"The engine's log-probs of {values['train/mismatch/non_finite']:.0f} tokens of step {step} are not "
                "finite: the policy is not trained on them, and a solution without a score counts as one of 0. The "
                "metric train/mismatch/non_finite counts them; where they go on, look for weights that overflow in "
                "their dtype, or take another engine."
            )
        if values["train/verifier_failures"]:
            errors = verifier_errors or ["on another rank"]
            rank_zero_warn(
                f"The verifier failed on {values['train/verifier_failures']:.0f} responses of step {step}, which get "
                f"reward 0; the last one here: {errors[-1]}."
            )


class TrainingLog:
    """Gathers what happens in one training step, which begins with it.

    Args:
        ranks: the processes whose numbers are added up.
        parts: of the step, timed from now on.
    """

    def __init__(self, ranks: Ranks, parts: StepParts) -> None:
        self.ranks, self.parts = ranks, parts
        parts.start()
        self._began = time.perf_counter()
        self._updates: list[dict[str, float]] = []

    def compare(self, log_probs: FixedLogProbs, rollouts: Rollouts) -> None:
        """Compare the engine with the policy that several updates start from.

        Args:
            log_probs: of that policy, among others.
            rollouts: N solutions of this rank.
        """
        self._updates.append(Mismatch.before_update(log_probs, rollouts).over(self.ranks).values_by_name())

    def add_update(self, sums: UpdateSums, gradient_norm: float, objective: Objective) -> None:
        """Count an optimizer step.

        Args:
            sums: of its micro-batches on this rank.
            gradient_norm: before clipping.
            objective: whose terms these are.
        """
        totals = sums.over(self.ranks)
        terms, mismatch = totals.terms, totals.mismatch
        values = objective.values_by_name(terms) | {"gradient_norm": gradient_norm}
        if mismatch is not None:
            values |= mismatch.values_by_name()
        if terms.ratios is not None:
            values |= {f"mismatch/{name}": value for name, value in terms.ratios.values_by_name().items()}
        if terms.weighted_tokens > 0:
            values["importance_weight"] = float(terms.importance_weights / terms.weighted_tokens)
            values["importance_capped"] = float(terms.capped_tokens / terms.weighted_tokens)
        self._updates.append(values)

    def update_values(self) -> dict[str, float]:
        """Means over the optimizer steps of the round; of those nothing when all were skipped."""
        names = {name for values in self._updates for name in values}
        found = {name: [values[name] for values in self._updates if name in values] for name in sorted(names)}
        return {f"train/{name}": sum(values) / len(values) for name, values in found.items()}

    def round_values(
        self, rollout: Rollout, head: SelfRewardHead, phase: Phase, mixed_groups: Tensor
    ) -> dict[str, float | Tensor]:
        """What was sampled, and how well the model judged it."""
        rollouts = rollout.rollouts
        judged = ~rollout.self_rewards.isnan()
        head.metrics.update(rollout.self_rewards[judged], rollout.rewards[judged])
        verification = head.metrics.compute()
        head.metrics.reset()
        # A problem's solutions are all on its rank.
        problems = len(rollout.problems)
        number = torch.arange(problems, device=judged.device).repeat_interleave(rollouts.group_size)
        within = pair_counts(
            number[judged], rollout.self_rewards[judged], rollout.rewards[judged] > CORRECT_THRESHOLD, problems
        )
        counts: dict[str, Tensor | int] = {
            "tokens": rollouts.response_lengths.sum(),
            "solutions": len(rollouts),
            "finished": rollouts.finished.sum(),
            "emitted": rollouts.contains(head.token_id).sum(),
            "non_finite": rollouts.non_finite.sum(),
            "groups": len(rollout.problems),
            "signal": rollout.has_signal.sum(),
            "trained": len(mixed_groups),
            "mixed": mixed_groups.sum(),
            "failed": sum(verification.error is not None for verification in rollout.verifications),
            "rewards": rollout.rewards.sum(),
            "judged": judged.sum(),
            "self_rewards": rollout.self_rewards[judged].sum(),
            "half_wins": within.half_wins.sum(),
            "pairs": within.pairs.sum(),
        }
        row = torch.tensor([float(value) for value in counts.values()], dtype=torch.float64)
        total = dict(zip(counts, self.ranks.sum(row.to(rollout.rewards.device)).tolist(), strict=True))
        names = ("f1", "accuracy_on_correct", "accuracy_on_incorrect", "auroc", "ece", "brier")
        return {f"train/self_reward/{name}": verification[name] for name in names} | {
            "train/self_reward/auroc_within": total["half_wins"] / (2 * total["pairs"]) if total["pairs"] else math.nan,
            "train/self_reward/mean": total["self_rewards"] / total["judged"],
            "train/reward": total["rewards"] / total["solutions"],
            "train/response_length_tokens": total["tokens"] / total["solutions"],
            "train/response_tokens": total["tokens"],
            "train/generated_tokens": total["tokens"],
            "train/truncation_rate": 1 - total["finished"] / total["solutions"],
            "train/reward_token_emitted": total["emitted"] / total["solutions"],
            "train/mismatch/non_finite": total["non_finite"],
            "train/groups_with_signal": total["signal"] / total["groups"],
            "train/mixed_groups": total["mixed"] / total["trained"],
            "train/verifier_failures": total["failed"],
            "train/phase": float(phase),
        }

    def time_values(self, tokens: float) -> dict[str, float]:
        """Seconds of the step and of its parts, and response tokens per second of the whole step."""
        seconds = time.perf_counter() - self._began
        parts = {f"train/{name}_seconds": value for name, value in self.parts.seconds.items()}
        return {"train/step_seconds": seconds, "train/tokens_per_second": tokens / seconds, **parts}
