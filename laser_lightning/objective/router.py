"""The auxiliary loss that spreads tokens over the experts of a mixture."""

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from transformers import PreTrainedModel

from laser_lightning.errors import UserError
from laser_lightning.objective.losses.aggregation import weighted_sum
from laser_lightning.objective.targets import Targets
from laser_lightning.objective.term import LossTerm
from laser_lightning.policy.model import PolicyOutputs
from laser_lightning.policy.routers import auxiliary_coefficient, experts_per_token
from laser_lightning.records.batching import MicroBatch
from laser_lightning.shapes import Float


class RouterAuxLoss(LossTerm):
    """The load-balancing loss of mixtures of experts, in the mean of ``update.aggregation`` over the trained tokens.

    Every token has the balance of its own solution (see ``router_balance``), so that micro-batches and ranks change
    nothing. Solutions whose advantage is 0 count too.

    Args:
        weight: what it weighs beside the policy loss, as ``router_aux_loss_coef`` of a model's config.
    """

    needs_routers = True

    def __init__(self, weight: float = 0.001) -> None:
        if weight <= 0:
            raise UserError(f"The weight of the routers' auxiliary loss is {weight}, and must be above 0.")
        self.weight = weight

    def __call__(self, outputs: PolicyOutputs, batch: MicroBatch, targets: Targets) -> Float[Tensor, ""]:
        """A micro-batch's share of the term (see ``LossTerm``)."""
        assert outputs.router_balance is not None  # asked for above
        mask = batch.loss_mask
        balance = outputs.router_balance[:, None].expand(mask.shape)
        return self.weight * weighted_sum(balance, mask, targets.policy_weights[batch.rows])


def check_routers(lm: PreTrainedModel, needed: bool, weight: float | None) -> None:
    """Refuse an auxiliary loss that a model does not have, and say so where its config has one that nothing adds.

    Args:
        lm: the policy's model.
        needed: whether a part of the objective asks for the balance of the routers.
        weight: ``update.router_aux_loss``.
    """
    if needed:
        experts_per_token(lm)
    elif weight is None and (coefficient := auxiliary_coefficient(lm)):
        rank_zero_warn(
            f"The model's config has router_aux_loss_coef {coefficient} with output_router_logits, and no auxiliary "
            f"loss of the routers is trained: set update.router_aux_loss to {coefficient} to add it, or to 0 to leave "
            "it out without this warning."
        )
