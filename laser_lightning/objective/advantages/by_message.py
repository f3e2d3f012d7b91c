"""Messages compared with those in the same place of the other responses to their problem."""

import torch
from torch import Tensor

from laser_lightning.shapes import Float, Int


def message_advantages(
    rewards: Float[Tensor, " M"], places: Int[Tensor, "M columns"], divide_by_std: bool = True, epsilon: float = 1e-6
) -> Float[Tensor, " M"]:
    """A = (r - mean) / (std + epsilon), of the rewards of the messages in the same place.

    SPOC's message-wise RLOO (arXiv 2506.06923, section 3.3 and algorithm 4), which subtracts a mean reward and divides
    by the standard deviation in place of leaving one out: the mean of the l-th messages of a question over its
    responses. Responses without an l-th message are left out of it here; the paper's formula does not say. The standard
    deviation is that of the sample, as elsewhere here.

    Args:
        rewards: [M].
        places: [M, columns] messages with equal rows are compared: their problem, their role and their turn.
        divide_by_std: divide by the standard deviation.
        epsilon: added to it.

    Returns:
        [M], 0 where all rewards of a place are equal, or there is one alone.
    """
    _, place, sizes = places.unique(dim=0, return_inverse=True, return_counts=True)
    values = rewards.double()
    means = values.new_zeros(len(sizes)).index_add(0, place, values) / sizes
    centred = values - means[place]
    squares = values.new_zeros(len(sizes)).index_add(0, place, centred.square())
    stds = (squares / (sizes - 1).clamp(min=1)).sqrt()
    low = values.new_full((len(sizes),), torch.inf).scatter_reduce(0, place, values, "amin")
    high = values.new_full((len(sizes),), -torch.inf).scatter_reduce(0, place, values, "amax")
    found = centred / (stds[place] + epsilon) if divide_by_std else centred
    return found.masked_fill((low == high)[place], 0.0).to(rewards.dtype)
