"""The objective of one optimizer step: policy loss + alpha * self-rewarding loss + KL - entropy (ALGORITHM step 6)."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.objective.losses.aggregation import weighted_sum
from laser_lightning.objective.losses.importance import correct_importance
from laser_lightning.objective.losses.policy_loss import PolicyLoss, PolicyTokens
from laser_lightning.objective.losses.ratios import RatioSums
from laser_lightning.objective.part import ObjectivePart
from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
from laser_lightning.objective.self_reward.solutions import Supervision
from laser_lightning.objective.sentences import number_sentences
from laser_lightning.objective.settings import UpdateSettings
from laser_lightning.objective.sums import Sums
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.distributions import AskedReading, DistributionReadings
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import MicroBatch
from laser_lightning.shapes import Bool, Float, Int, Real

TERMS = ("loss", "policy_loss", "self_reward_loss", "kl", "entropy")
"""Fields of ``LossTerms`` that are logged as they are."""


@dataclass(frozen=True)
class LossTerms(Sums):
    """Shares of the terms of an optimizer step's loss; those of all micro-batches and ranks add up to the terms.

    Attributes:
        loss: scalar, the sum of all terms, with gradient.
        policy_loss: scalar; like all that follows without gradient.
        self_reward_loss: scalar, before its weight alpha.
        kl: scalar, before its weight.
        entropy: scalar, before its weight.
        clip_fraction: scalar, the share of the step's weight at clipped tokens.
        passed_weight: scalar, the share of the step's weight at all tokens that went through the policy.
        importance_weights: scalar, sum over tokens; 0 without a correction.
        capped_tokens: scalar, tokens whose weight was bounded.
        weighted_tokens: scalar, tokens that have a weight.
        extra: [E], what ``Objective.extra_names`` names.
        ratios: raw importance ratios; None where the engine's log-probs are not known.
    """

    loss: Float[Tensor, ""]
    policy_loss: Float[Tensor, ""]
    self_reward_loss: Float[Tensor, ""]
    kl: Float[Tensor, ""]
    entropy: Float[Tensor, ""]
    clip_fraction: Float[Tensor, ""]
    passed_weight: Float[Tensor, ""]
    importance_weights: Float[Tensor, ""]
    capped_tokens: Real[Tensor, ""]
    weighted_tokens: Real[Tensor, ""]
    extra: Float[Tensor, " E"]
    ratios: RatioSums | None = None


@dataclass
class Objective:
    """Computes a micro-batch's share of the optimizer step's loss; shares of all micro-batches and ranks add up to it.

    Attributes:
        policy_loss: the policy-gradient part.
        self_reward: the self-rewarding part.
        settings: weights of the other parts.
        sentence_ends: [V] bool, tokens that end a sentence, for a policy loss that asks for sentences.
    """

    policy_loss: PolicyLoss
    self_reward: SelfRewardHead
    settings: UpdateSettings
    sentence_ends: Bool[Tensor, " V"] | None = None

    @property
    def needs_entropy(self) -> bool:
        """Whether a term looks at the entropy of the tokens' distributions."""
        return self.settings.entropy_coef > 0 or any(part.needs_entropy for part in self._parts)

    @property
    def needs_routers(self) -> bool:
        """Whether a term looks at how evenly a mixture of experts spreads its tokens."""
        return any(part.needs_routers for part in self._parts)

    @property
    def needs_old(self) -> bool:
        """Whether the policy that the update starts from needs a pass of its own."""
        return self.settings.reuses_rollouts or self.policy_loss.needs_old_pass

    @property
    def needs(self) -> tuple[bool, bool]:
        """Whether entropies, and the balance of routers, are looked at."""
        return self.needs_entropy, self.needs_routers

    @property
    def extra_names(self) -> list[str]:
        """Names of what is logged besides: the further terms of the loss, and the policy loss's diagnostics."""
        return [term.name for term in self.settings.all_terms] + list(self.policy_loss.diagnostic_names)

    def values_by_name(self, totals: LossTerms) -> dict[str, float]:
        """What is logged of an optimizer step's terms: those of its loss, and means of the policy loss's diagnostics.

        A step leaves out solutions that have no gradient, of which no diagnostic is known. So these are means over the
        tokens that went through the policy, each with its weight in the loss.

        Args:
            totals: over all micro-batches and ranks.
        """
        values = {name: float(getattr(totals, name)) for name in (*TERMS, "clip_fraction")}
        values |= dict(zip(self.extra_names, totals.extra.tolist(), strict=True))
        weight = float(totals.passed_weight) or math.nan
        return values | {name: values[name] / weight for name in ("clip_fraction", *self.policy_loss.diagnostic_names)}

    @property
    def token_readings(self) -> DistributionReadings:
        """What is read off the tokens' distributions."""
        return self.policy_loss.readings

    def inputs(self, batch: MicroBatch, targets: Targets) -> tuple[MicroBatch] | tuple[MicroBatch, AskedReading]:
        """What the pass over a micro-batch is given: with what to read off the tokens' distributions, if anything."""
        if (reading := self.token_readings.now) is None:
            return (batch,)
        return batch, AskedReading(reading, targets.old_reading).of(batch.rows, batch.loss_mask.shape[1])

    @property
    def _parts(self) -> list[ObjectivePart]:
        return [self.policy_loss, *self.settings.parts().values()]

    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> LossTerms:
        """The shares of a micro-batch of B solutions.

        Args:
            outputs: of the policy.
            batch: the solutions.
            targets: what is known of all solutions of the step.
        """
        mask, weights = batch.loss_mask, targets.policy_weights[batch.rows]
        tokens = self._tokens(outputs, batch, targets)
        policy = self.policy_loss(tokens)
        nothing = torch.zeros_like(weights.sum())
        losses, importance_weights, capped, weighted = policy.losses, nothing, nothing, nothing
        ratios = None
        if targets.sampling_log_probs is not None:
            sampling = targets.sampling_log_probs[batch.rows, : mask.shape[1]]
            ratios = RatioSums.between(tokens.old_log_probs, sampling, mask)
            if self.settings.importance is not None:
                importance = correct_importance(self.settings.importance, tokens.old_log_probs, sampling, mask)
                losses = losses * importance.weights
                importance_weights, capped = importance.weights.where(mask, 0.0).sum(), importance.capped.sum()
                weighted = mask.sum()
        loss = policy_loss = weighted_sum(losses, mask, weights)
        self_reward_loss = kl = entropy = nothing

        if self.self_reward.loss_weight > 0:
            self_reward_loss = self.self_reward_loss(outputs, batch, targets)
            loss = loss + self.self_reward.loss_weight * self_reward_loss
        if self.settings.kl_coef > 0 and tokens.reference_log_probs is not None:
            kl = weighted_sum(self.settings.kl(outputs.log_probs, tokens.reference_log_probs), mask, weights)
            loss = loss + self.settings.kl_coef * kl
        if self.settings.entropy_coef > 0:
            entropy = weighted_sum(outputs.entropy, mask, weights)
            loss = loss - self.settings.entropy_coef * entropy
        extra = [term(outputs, batch, targets) for term in self.settings.all_terms]
        for share in extra:
            loss = loss + share
        logged = [*extra, *(weighted_sum(values, mask, weights) for values in policy.diagnostics)]
        return LossTerms(
            loss,
            policy_loss.detach(),
            self_reward_loss.detach(),
            kl.detach(),
            entropy.detach(),
            weighted_sum(policy.clipped.float(), mask, weights),
            weighted_sum(torch.ones_like(losses), mask, weights),
            importance_weights,
            capped,
            weighted,
            torch.stack([share.detach() for share in logged]) if logged else nothing.new_zeros(0),
            ratios,
        )

    def self_reward_loss(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Float[Tensor, ""]:
        """The share of the self-rewarding loss, before its weight (see ``__call__``)."""
        rows = batch.rows
        supervision = Supervision(targets.self_reward_targets[rows], targets.self_reward_weights[rows])
        return self.self_reward.loss(self.readings(outputs, batch, targets), supervision)

    def readings(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Readings:
        """What the policy says behind the solutions of a micro-batch."""
        return Readings(
            outputs.reward_token_log_probs,
            outputs.hidden if self.self_reward.reads_hidden else None,
            None if targets.references is None else targets.references[batch.rows],
        )

    def _tokens(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> PolicyTokens:
        """What the policy loss may look at."""
        mask = batch.loss_mask

        def of_batch(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[batch.rows, : mask.shape[1]]

        old = of_batch(targets.old_log_probs)
        token_ids = batch.response_ids
        ends = self.sentence_ends
        return PolicyTokens(
            log_probs=outputs.log_probs,
            old_log_probs=outputs.log_probs.detach() if old is None else old,
            advantages=targets.token_advantages[batch.rows, : mask.shape[1]].expand(mask.shape),
            mask=mask,
            token_ids=token_ids,
            entropy=outputs.entropy,
            sentences=None if ends is None else number_sentences(token_ids, ends),
            reference_log_probs=of_batch(targets.reference_log_probs),
            teacher_log_probs=of_batch(targets.teacher_log_probs),
            reading=outputs.reading,
            old_reading=of_batch(targets.old_reading),
            teacher_reading=of_batch(targets.teacher_reading),
            marks=of_batch(targets.marks),
        )

    def mark_tokens(
        self, targets: Targets, trained: Bool[Tensor, "N R"], rows: Int[Tensor, " M"], ranks: Ranks
    ) -> Targets:
        """Targets with the tokens that the policy loss chooses among all of an optimizer step.

        Args:
            targets: of N solutions.
            trained: [N, R] bool, their tokens that are trained on.
            rows: [M] the solutions of the optimizer step.
            ranks: the processes that take it, which call together.
        """
        of_step = torch.zeros_like(trained)
        of_step[rows] = trained[rows]
        return replace(targets, marks=self.policy_loss.mark_tokens(targets, of_step, ranks))

    def has_gradient(self, targets: Targets) -> Bool[Tensor, " N"]:
        """[N] bool: solutions whose share of the loss has a gradient; the others need no forward pass."""
        found = self.policy_loss.has_gradient(targets)
        if self.self_reward.loss_weight > 0:
            found = found | (targets.self_reward_weights > 0)
        for term in self.settings.all_terms:
            found = found | term.has_gradient(targets)
        if self.settings.kl_coef > 0 or self.settings.entropy_coef > 0:
            found = torch.ones_like(found)
        return found
