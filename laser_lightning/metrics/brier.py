"""The Brier score by kind of problem."""

import torch
from torch import Tensor

from laser_lightning.metrics.base import ExactMetric
from laser_lightning.metrics.functional import squared_errors
from laser_lightning.metrics.kinds import check_kind_ids, check_kinds
from laser_lightning.shapes import Float, Int, Real

# Errors are summed as integers, whose sum does not depend on the order of addition: two billion solutions fit.
ONE_ERROR = 2**32


class BrierByKind(ExactMetric):
    """The Brier score of the self-reward per kind of problem, see ``brier_score``.

    ``compute`` returns a dict from the name of a kind to its score; NaN for a kind without solutions. Two counts per
    kind are held and no rows, so a row repeated by a DistributedSampler counts twice here.

    Args:
        kinds: names of the kinds; a kind's id is its position here.
    """

    higher_is_better: bool | None = False
    errors: Int[Tensor, " kinds"]
    solutions: Int[Tensor, " kinds"]

    def __init__(self, kinds: list[str]) -> None:
        super().__init__()
        check_kinds(kinds)
        self.kinds = list(kinds)
        self.add_count("errors", (len(kinds),))
        self.add_count("solutions", (len(kinds),))

    def update(
        self, kind_ids: Int[Tensor, " N"], self_rewards: Real[Tensor, " N"], rewards: Real[Tensor, " N"]
    ) -> None:
        """Add solutions.

        Args:
            kind_ids: [N], integers: position of the problem's kind in ``kinds``.
            self_rewards: [N], scores as they are; clamped to [0, 1] here.
            rewards: [N], the verifier's rewards; a solution is correct if its reward is above 0.5.

        Raises:
            ValueError: if the shapes differ, ids are not integers or not in ``kinds``, or an entry is NaN.
        """
        self.check_columns(kind_ids=kind_ids, self_rewards=self_rewards, rewards=rewards)
        self.check_integers(kind_ids=kind_ids)
        self.check_numbers(self_rewards=self_rewards, rewards=rewards)
        check_kind_ids(kind_ids, len(self.kinds))
        kind_ids = kind_ids.long().to(self.device)
        units = (squared_errors(self_rewards.detach(), rewards > 0.5).double() * ONE_ERROR).round().long()
        self.errors = self.errors.index_add(0, kind_ids, units.to(self.device))
        self.solutions = self.solutions + torch.bincount(kind_ids, minlength=len(self.kinds))

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """The Brier score by name of the kind, over all ranks."""
        scores = (self.errors.double() / ONE_ERROR / self.solutions).float()
        return dict(zip(self.kinds, scores, strict=True))
