"""What several estimators ask of groups."""

from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.shapes import Bool, Float


def unanimous(rewards: Float[Tensor, "P G"]) -> Bool[Tensor, "P 1"]:
    """[P, 1] bool: groups [P, G] whose rewards are all equal."""
    return (rewards == rewards[:, :1]).all(dim=1, keepdim=True)


def centre(rewards: Float[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """[P, G] rewards less the mean of their group; exactly 0 in unanimous groups, whatever the mean was rounded to."""
    return (rewards - rewards.mean(dim=1, keepdim=True)).masked_fill(unanimous(rewards), 0.0)


def divide(
    centred: Float[Tensor, "P G"], std: Float[Tensor, "P 1"] | Float[Tensor, ""], epsilon: float
) -> Float[Tensor, "P G"]:
    """[P, G] distances over std + epsilon; what is 0 stays exactly 0 where there is no spread, and is not 0 by 0."""
    return (centred / (std + epsilon)).masked_fill(centred == 0, 0.0)


def check_epsilon(epsilon: float) -> None:
    """Refuse a negative term in a denominator."""
    if epsilon < 0:
        raise UserError(f"advantage.estimator.epsilon is {epsilon}, and must be 0 or more.")
