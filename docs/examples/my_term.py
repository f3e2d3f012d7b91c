"""A term of the loss that keeps the policy near a teacher."""

from torch import Tensor

from laser_lightning import LossTerm
from laser_lightning.losses import weighted_sum
from laser_lightning.objective.targets import Targets
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.records.batching import MicroBatch


class KeepNearTeacher(LossTerm):
    """weight / 2 * (log pi_teacher - log pi)^2 of the sampled tokens, in the mean of ``update.aggregation``.

    Args:
        weight: what it weighs beside the policy loss.
    """

    needs_teacher = True

    def __init__(self, weight: float = 0.1) -> None:
        self.weight = weight

    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Tensor:
        assert targets.teacher_log_probs is not None  # asked for above
        mask = batch.loss_mask
        distance = targets.teacher_log_probs[batch.rows, : mask.shape[1]] - outputs.log_probs
        return self.weight * weighted_sum(distance.square() / 2, mask, targets.policy_weights[batch.rows])
