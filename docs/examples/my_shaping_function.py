"""A reward that falls with the number of lines, written as a plain function: no class, no tensors."""

from laser_lightning import SolutionGroup


def fewer_lines(group: SolutionGroup) -> list[float]:
    """The rewards so far, less 0.01 for each line of a response, from step 10 on."""
    price = 0.01 if group.step >= 10 else 0.0
    return [reward - price * len(text.splitlines()) for reward, text in zip(group.rewards, group.texts, strict=True)]
