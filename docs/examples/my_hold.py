"""A hold of the policy that minds only what a judging update makes less likely."""

from torch import Tensor

from laser_lightning import PolicyHold
from laser_lightning.losses import weighted_sum
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import MicroBatch


class HoldFalling(PolicyHold):
    """weight * max(0, log pi_old - log pi - slack) of the sampled tokens, pi_old the policy of before the updates.

    Args:
        weight: what it weighs beside the self-rewarding loss.
        slack: nats that a token may lose.
    """

    needs_old = True

    def __init__(self, weight: float = 1.0, slack: float = 0.01) -> None:
        super().__init__(weight)
        self.slack = slack

    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Tensor:
        assert targets.old_log_probs is not None  # asked for above
        mask = batch.loss_mask
        lost = targets.old_log_probs[batch.rows, : mask.shape[1]] - outputs.log_probs - self.slack
        return self.weight * weighted_sum(lost.clamp(min=0), mask, targets.policy_weights[batch.rows])
