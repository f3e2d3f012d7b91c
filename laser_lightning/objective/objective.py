"""The objective of one optimizer step: policy loss + alpha * self-rewarding loss + KL - entropy (ALGORITHM step 6)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.losses import (
    Aggregation,
    Importance,
    KLEstimator,
    PolicyLoss,
    importance_weights,
    kl_estimate,
    weighted_sum,
)
from laser_lightning.objective.self_reward.head import Readings, SelfRewardHead
from laser_lightning.objective.self_reward.solutions import Supervision
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import MicroBatch


@dataclass(frozen=True)
class UpdateSettings:
    """How rollouts become optimizer steps.

    Args:
        micro_batch_tokens: token budget of a forward pass, padding included; it changes memory and speed, not results.
        mini_batches: optimizer steps that a rollout is split into, by prompts; must divide the prompts per process.
        epochs: times that a rollout is used.
        aggregation: mean over all response tokens of the step (``token_mean``), over solutions of the mean within each
            (``sequence_mean``), or over solutions of the sum within each, divided by sampling.max_response_tokens
            (``fixed_length``, Dr.GRPO).
        kl_coef: weight of the KL divergence to the frozen reference; 0 loads no reference for it.
        kl_estimator: how the divergence is estimated from the sampled tokens.
        entropy_coef: weight of the entropy bonus.
        importance: truncated importance sampling against the mismatch between the engine's log-probs and the
            trainer's: the policy loss of a token is multiplied by the ratio of its probabilities (``token``), or by
            that of its whole response (``sequence``).
        importance_cap: largest such ratio.
    """

    micro_batch_tokens: int = 16_384
    mini_batches: int = 1
    epochs: int = 1
    aggregation: Aggregation = "token_mean"
    kl_coef: float = 0.0
    kl_estimator: KLEstimator = "k3"
    entropy_coef: float = 0.0
    importance: Importance = "none"
    importance_cap: float = 2.0

    def __post_init__(self) -> None:
        for name in ("micro_batch_tokens", "mini_batches", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"update.{name} is {getattr(self, name)}, and must be at least 1.")
        if self.kl_coef < 0 or self.entropy_coef < 0:
            raise UserError("update.kl_coef and update.entropy_coef must be 0 or more.")
        if self.importance_cap < 1:
            raise UserError(f"update.importance_cap is {self.importance_cap}, and must be at least 1.")

    @property
    def reuses_rollouts(self) -> bool:
        """Whether a rollout sees more than one optimizer step, so that ratios differ from 1."""
        return self.mini_batches * self.epochs > 1


@dataclass
class Targets:
    """What the objective needs to know of each of the N solutions, fixed before the first backward pass.

    Attributes:
        advantages: [N].
        rewards: [N].
        policy_weights: [N], weight of each response token of the solution in the step's mean.
        self_reward_weights: [N], weight of the solution's error in its self-reward; 0 where there is none.
        self_reward_targets: [N], what its self-reward is trained towards.
        references: [N, K] log pi_ref of the tokens that scores are made of with an exact reference, else None.
        old_log_probs: [N, R] of the policy that the update started from; None for a first and only step, where they
            are those of the step itself.
        reference_log_probs: [N, R] of the frozen reference, for the KL term, else None.
        sampling_log_probs: [N, R] of the engine, for importance weights, else None.
    """

    advantages: Tensor
    rewards: Tensor
    policy_weights: Tensor
    self_reward_weights: Tensor
    self_reward_targets: Tensor
    references: Tensor | None = None
    old_log_probs: Tensor | None = None
    reference_log_probs: Tensor | None = None
    sampling_log_probs: Tensor | None = None


@dataclass
class Objective:
    """Computes a micro-batch's share of the optimizer step's loss; shares of all micro-batches and ranks add up to it.

    Attributes:
        policy_loss: the policy-gradient part.
        self_reward: the self-rewarding part.
        settings: weights of the other parts.
    """

    policy_loss: PolicyLoss
    self_reward: SelfRewardHead
    settings: UpdateSettings

    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> dict[str, Tensor]:
        """The terms of the loss.

        Returns:
            Scalars ``loss`` (with gradient), ``policy_loss``, ``self_reward_loss``, ``kl``, ``entropy`` and
            ``clip_fraction`` (the share of the step's weight at clipped tokens), without gradient; with importance
            weights their sum, how many were capped, and of how many tokens.
        """
        rows, mask = batch.rows, batch.response_mask
        width = mask.shape[1]
        weights = targets.policy_weights[rows]
        old = outputs.log_probs.detach() if targets.old_log_probs is None else targets.old_log_probs[rows, :width]
        tokens = self.policy_loss(outputs.log_probs, old, targets.advantages[rows], mask)
        losses, importance = tokens.losses, {}
        if targets.sampling_log_probs is not None:
            ratios, capped = importance_weights(
                old,
                targets.sampling_log_probs[rows, :width],
                mask,
                self.settings.importance,
                self.settings.importance_cap,
            )
            losses = losses * ratios
            importance = {
                "importance_weights": ratios.where(mask, 0.0).sum(),
                "capped_tokens": capped.sum(),
                "weighted_tokens": mask.sum(),
            }
        loss = policy_loss = weighted_sum(losses, mask, weights)
        self_reward_loss = kl = entropy = torch.zeros_like(policy_loss)

        if self.self_reward.loss_weight > 0:
            self_reward_loss = self.self_reward.loss(
                Readings(
                    outputs.reward_token_log_probs,
                    outputs.hidden if self.self_reward.reads_hidden else None,
                    None if targets.references is None else targets.references[rows],
                ),
                Supervision(targets.self_reward_targets[rows], targets.self_reward_weights[rows]),
            )
            loss = loss + self.self_reward.loss_weight * self_reward_loss
        if targets.reference_log_probs is not None:
            per_token = kl_estimate(
                outputs.log_probs, targets.reference_log_probs[rows, :width], self.settings.kl_estimator
            )
            kl = weighted_sum(per_token, mask, weights)
            loss = loss + self.settings.kl_coef * kl
        if self.settings.entropy_coef > 0:
            entropy = weighted_sum(outputs.entropy, mask, weights)
            loss = loss - self.settings.entropy_coef * entropy
        return {
            "loss": loss,
            "policy_loss": policy_loss.detach(),
            "self_reward_loss": self_reward_loss.detach(),
            "kl": kl.detach(),
            "entropy": entropy.detach(),
            "clip_fraction": weighted_sum(tokens.clipped.float(), mask, weights),
            **importance,
        }

    def contributing(self, targets: Targets) -> Tensor:
        """[N] bool: solutions whose share of the loss has a gradient; the others need no forward pass."""
        contributing = targets.advantages != 0
        if self.self_reward.loss_weight > 0:
            contributing = contributing | (targets.self_reward_weights > 0)
        if targets.reference_log_probs is not None or self.settings.entropy_coef > 0:
            contributing = torch.ones_like(contributing)
        return contributing
