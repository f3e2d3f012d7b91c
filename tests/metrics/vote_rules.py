"""Rules for tests, in a file of their own, so that other processes can import them."""

import torch
from torch import Tensor

from laser_lightning.metrics import Candidates, VoteRule


class MeanOfScores(VoteRule):
    """The answer with the highest mean of its finished solutions' mean scores; absent scores are left out.

    Args:
        name: of the rule.
    """

    def __init__(self, name: str = "mean_of_scores") -> None:
        self.name = name

    def standings(self, candidates: Candidates) -> Tensor:
        means = candidates.scores.nanmean(dim=1).nan_to_num(0.0)
        return candidates.mean_by_answer(torch.where(candidates.finished, means, 0.0))
