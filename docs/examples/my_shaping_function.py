"""A price for each token from the second step on, as a plain function: no class, and no tensors."""

from laser_lightning import SolutionGroup


def price_tokens(group: SolutionGroup) -> list[float]:
    """The rewards so far, less 0.01 for each token of a response."""
    price = 0.01 if group.step >= 1 else 0.0
    return [reward - price * length for reward, length in zip(group.rewards, group.lengths, strict=True)]
