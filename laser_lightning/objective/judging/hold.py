"""What holds the policy where it is while the self-reward learns: both live in the same weights."""

from abc import abstractmethod

import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.objective.losses.aggregation import weighted_sum
from laser_lightning.objective.losses.kl import KLEstimate, KLEstimator
from laser_lightning.objective.part import ObjectivePart
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import MicroBatch
from laser_lightning.shapes import Float


class PolicyHold(ObjectivePart):
    """A term beside the self-rewarding loss of a judging update, which holds the policy (``update.judging.hold``).

    Args:
        weight: of the term, beside the self-rewarding loss at weight 1.

    Attributes:
        needs_old: whether it asks for ``targets.old_log_probs``, of the policy as the round's own update left it: a
            pass without gradient more for each replayed solution.
        leaves_out_deciding: whether the only correct, or only incorrect, solution of a group, which decides that the
            group is replayed, has weight 0.
    """

    needs_old: bool = False
    leaves_out_deciding: bool = False

    def __init__(self, weight: float) -> None:
        if weight < 0:
            raise UserError(f"update.judging.hold.weight is {weight}, and must be 0 or more.")
        self.weight = weight

    @abstractmethod
    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Float[Tensor, ""]:
        """A micro-batch's share of the term, weight included: scalar, with gradient.

        Shares of all micro-batches and ranks are added up. ``targets.policy_weights`` is what each token of a solution
        weighs, so that the sum over the replayed solutions stands for the mean over all tokens of the drawn groups, in
        which correct and incorrect ones have their own proportion. ``targets.sampling_log_probs`` are those of the
        round that drew a solution; there are no advantages.

        Args:
            outputs: of the policy.
            batch: B solutions, their numbers in ``batch.rows``.
            targets: what is known of all N replayed solutions.
        """


class SampledCrossEntropy(PolicyHold):
    """The cross-entropy of the policy on the tokens that it sampled itself.

    Its expected gradient is 0 at the policy that drew them, and elsewhere leads back to that one. The draws are of the
    last rounds: the term holds the policy near their mean, against the policy gradient too. With a smaller weight of
    incorrect solutions it holds the policy near what was right in those rounds (self-imitation, arXiv 1806.05635, with
    the reward of 0 or 1 in place of the advantage), in the direction of the policy gradient.

    Args:
        weight: of the term, beside the self-rewarding loss at weight 1.
        unbiased: leave out the only correct, or only incorrect, solution of a group. Replayed groups have both, and
            with that solution, which decides it, the expected gradient is that of the log-probability of having both:
            it leads every problem towards being half solved.
        incorrect: what a token of an incorrect solution weighs, where one of a correct solution weighs 1; from 0 to 1.
    """

    def __init__(self, weight: float = 0.2, unbiased: bool = True, incorrect: float = 1.0) -> None:
        super().__init__(weight)
        if not 0 <= incorrect <= 1:
            raise UserError(f"update.judging.hold.incorrect is {incorrect}, and must be from 0 to 1.")
        self.leaves_out_deciding = unbiased
        self.incorrect = incorrect

    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Float[Tensor, ""]:
        """A micro-batch's share of weight * mean of -log pi (see ``PolicyHold``)."""
        weights, correct = targets.policy_weights[batch.rows], targets.rewards[batch.rows] > CORRECT_THRESHOLD
        weights = torch.where(correct, weights, self.incorrect * weights)
        return -self.weight * weighted_sum(outputs.log_probs, batch.loss_mask, weights)


class KLHold(PolicyHold):
    """The divergence from the policy as the round's own update left it, estimated at the replayed tokens.

    What the round's policy gradient did is kept: the term is 0 until a judging update has moved the policy.

    Args:
        weight: of the term, beside the self-rewarding loss at weight 1.
        estimator: ``k2`` or ``k3`` (see ``KLEstimate``); ``k1``, whose gradient does not depend on where the policy is,
            holds nothing.
    """

    needs_old = True

    def __init__(self, weight: float = 1.0, estimator: KLEstimator = "k3") -> None:
        super().__init__(weight)
        if estimator == "k1":
            raise UserError(
                "KLHold's estimator is k1, whose gradient is the same wherever the policy is: take k2 or k3, or the "
                "hold SampledCrossEntropy."
            )
        self._divergence = KLEstimate(estimator)

    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Float[Tensor, ""]:
        """A micro-batch's share of weight * mean of KL(pi, pi_old) (see ``PolicyHold``)."""
        assert targets.old_log_probs is not None  # asked for above
        mask = batch.loss_mask
        divergence = self._divergence(outputs.log_probs, targets.old_log_probs[batch.rows, : mask.shape[1]])
        return self.weight * weighted_sum(divergence, mask, targets.policy_weights[batch.rows])
