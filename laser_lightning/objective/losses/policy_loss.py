"""What a policy loss is."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.errors import UserError
from laser_lightning.objective.part import ObjectivePart
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.distributions import DistributionReadings
from laser_lightning.shapes import Bool, Float, Int, Shaped


class PolicyTokens(NamedTuple):
    """What a policy loss may look at: the response tokens of B solutions, R places wide.

    Attributes:
        log_probs: [B, R] of the policy now, with gradient.
        old_log_probs: [B, R] of the policy that the update started from.
        advantages: [B, R]; where there is one for a solution, it stands at each of its tokens.
        mask: [B, R] bool, the tokens that are trained on; other places hold no meaning.
        token_ids: [B, R] int64.
        entropy: [B, R] entropies (nats) of the distributions that the tokens were drawn from, with gradient; zeros
            unless the loss ``needs_entropy``.
        sentences: [B, R] int64, which sentence of the response each token belongs to, from 0; None unless the loss
            ``needs_sentences``.
        reference_log_probs: [B, R] of the frozen policy of before training; None unless something needs them.
        teacher_log_probs: [B, R] of the teacher; None unless something needs them.
        reading: [B, R, ...] what ``readings.now`` read off the policy's distributions; None without such a reading.
        old_reading: [B, R, ...] the same of ``readings.old``; also None where no pass of the old policy was taken.
        teacher_reading: [B, R, ...] the same of ``readings.teacher``.
        marks: [B, R] bool, what ``mark_tokens`` returned.
    """

    log_probs: Float[Tensor, "B R"]
    old_log_probs: Float[Tensor, "B R"]
    advantages: Float[Tensor, "B R"]
    mask: Bool[Tensor, "B R"]
    token_ids: Int[Tensor, "B R"]
    entropy: Float[Tensor, "B R"]
    sentences: Int[Tensor, "B R"] | None = None
    reference_log_probs: Float[Tensor, "B R"] | None = None
    teacher_log_probs: Float[Tensor, "B R"] | None = None
    reading: Shaped[Tensor, "B R ..."] | None = None
    old_reading: Shaped[Tensor, "B R ..."] | None = None
    teacher_reading: Shaped[Tensor, "B R ..."] | None = None
    marks: Bool[Tensor, "B R"] | None = None


class TokenLosses(NamedTuple):
    """Losses of tokens.

    Attributes:
        losses: [B, R], with gradient; places outside the mask are ignored.
        clipped: [B, R] bool, where a bound cut off the gradient, or changed its weight.
        diagnostics: [B, R] each, without gradient, as many as the loss has ``diagnostic_names``: their means over the
            tokens that the step passes through the policy are logged.
    """

    losses: Float[Tensor, "B R"]
    clipped: Bool[Tensor, "B R"]
    diagnostics: tuple[Float[Tensor, "B R"], ...] = ()


class PolicyLoss(ObjectivePart):
    """The policy-gradient part of the objective, for one micro-batch.

    Attributes:
        needs_sentences: whether it asks for the tokens' sentences.
        needs_old_pass: whether the old policy gets a pass of its own also where a rollout sees one optimizer step
            alone, in which its log-probs would else be taken from the step itself.
        readings: what it asks to be read off the whole distributions that tokens were drawn from.
        diagnostic_names: under which ``train/<name>`` its diagnostics are logged.
        looks_at_advantages: whether solutions without one have no gradient; false where a teacher has something to say
            of each.
        uses_advantages: whether its value depends on advantages at all; false where rewards have no say in it.
    """

    needs_sentences: bool = False
    needs_old_pass: bool = False
    readings: DistributionReadings = DistributionReadings()
    diagnostic_names: tuple[str, ...] = ()
    looks_at_advantages: bool = True
    uses_advantages: bool = True

    @abstractmethod
    def __call__(self, tokens: PolicyTokens) -> TokenLosses:
        """Per-token losses.

        Args:
            tokens: of B solutions.
        """

    def has_gradient(self, targets: Targets) -> Bool[Tensor, " N"]:
        """[N] bool: solutions that the loss has a gradient for; by default those with an advantage.

        Args:
            targets: what is known of all N solutions.
        """
        if not self.looks_at_advantages:
            return torch.ones_like(targets.rewards, dtype=torch.bool)
        return (targets.token_advantages != 0).any(dim=1)

    def mark_tokens(self, targets: Targets, trained: Bool[Tensor, "N R"], ranks: Ranks) -> Bool[Tensor, "N R"] | None:
        """Choose tokens among all those of an optimizer step, before its first micro-batch; None by default.

        What compares tokens of several solutions, such as a share of the lowest log-probs, belongs here, so that it
        does not depend on micro-batches and ranks. All ranks call it together.

        Args:
            targets: what is known of all N solutions of this rank.
            trained: [N, R] bool, the tokens that the optimizer step trains on.
            ranks: the processes that take the step.
        """
        return None


def refuse_unused_rewards(loss: PolicyLoss, method: str) -> None:
    """Refuse a policy loss in which the rewards that a method consists of have no say.

    Args:
        loss: of the module.
        method: its name, for the error.

    Raises:
        UserError: the loss does not use advantages.
    """
    if not loss.uses_advantages:
        raise UserError(
            f"policy_loss is {type(loss).__name__}, in which rewards have no say, and {method} trains the policy by "
            "rewards of its own: choose another policy loss, such as laser_lightning.losses.ClippedPolicyLoss, or "
            "train laser_lightning.LaSeRModule by this one."
        )


def all_after_the_first_step(targets: Targets, first: Bool[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """[N] bool: all solutions once the policy has left the one that drew them, before that the given ones.

    For losses with a term that pulls the policy back to the old one, whose gradient is 0 as long as they are the same.

    Args:
        targets: of all N solutions.
        first: [N] bool, solutions with a gradient in the first optimizer step on a rollout.
    """
    return first if targets.old_log_probs is None else torch.ones_like(first)
