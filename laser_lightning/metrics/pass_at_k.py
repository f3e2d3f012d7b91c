"""pass@1 and pass@k."""

import torch
from torch import Tensor

from laser_lightning.metrics.base import ExactMetric
from laser_lightning.metrics.groups import GroupMetric, SampleGroups
from laser_lightning.metrics.kinds import check_kind_ids, check_kinds
from laser_lightning.shapes import Float, Int, Real


class PassAt1(GroupMetric):
    """Share of correct solutions of a problem, averaged over problems; NaN without data."""

    def problem_values(self, groups: SampleGroups) -> Float[Tensor, " P"]:
        """Share of correct solutions of each problem, [P]."""
        return groups.sum(groups.correct.long()) / groups.sizes


class PassAtK(GroupMetric):
    """Probability that at least one of ``k`` solutions is correct, averaged over problems; NaN without data.

    The unbiased estimator ``1 - C(n - c, k) / C(n, k)`` from ``c`` correct ones among all ``n`` solutions of
    a problem (Chen et al. 2021, arXiv 2107.03374, equation 1).

    Args:
        k: solutions that a user would look at; at most the number sampled per problem.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.check_k(k)
        self.k = k

    def problem_values(self, groups: SampleGroups) -> Float[Tensor, " P"]:
        """pass@k of each problem, [P]; refuses a problem with fewer than ``k`` solutions."""
        groups.check_sizes(self.k)
        incorrect = groups.sum((~groups.correct).long())
        # C(n - c, k) / C(n, k) as a product over draws: the next one is incorrect as well. Factors stay in
        # [0, 1], so nothing overflows; they are 0 once all incorrect solutions are drawn.
        draw = torch.arange(self.k, device=incorrect.device)
        still_incorrect = (incorrect[:, None] - draw).clamp(min=0) / (groups.sizes[:, None] - draw)
        return 1 - still_incorrect.prod(dim=1)


class PassAt1ByKind(ExactMetric):
    """pass@1 per kind of problem: the share of correct ones among all solutions to problems of a kind.

    ``compute`` returns a dict from the name of a kind to its share; NaN for a kind without solutions. Two
    counts per kind are held and no rows, so a row repeated by a DistributedSampler counts twice here.

    Args:
        kinds: names of the kinds; a kind's id is its position here.
    """

    higher_is_better: bool | None = True
    correct: Int[Tensor, " kinds"]
    solutions: Int[Tensor, " kinds"]

    def __init__(self, kinds: list[str]) -> None:
        super().__init__()
        check_kinds(kinds)
        self.kinds = list(kinds)
        self.add_count("correct", (len(kinds),))
        self.add_count("solutions", (len(kinds),))

    def update(self, kind_ids: Int[Tensor, " N"], rewards: Real[Tensor, " N"]) -> None:
        """Add solutions.

        Args:
            kind_ids: [N], integers: position of the problem's kind in ``kinds``.
            rewards: [N], the verifier's rewards; a solution is correct if its reward is above 0.5.

        Raises:
            ValueError: if the shapes differ, ids are not integers or not in ``kinds``, or a reward is NaN.
        """
        self.check_columns(kind_ids=kind_ids, rewards=rewards)
        self.check_integers(kind_ids=kind_ids)
        self.check_numbers(rewards=rewards)
        kind_ids, rewards = kind_ids.long().to(self.device), rewards.to(self.device)
        check_kind_ids(kind_ids, len(self.kinds))
        self.solutions = self.solutions + torch.bincount(kind_ids, minlength=len(self.kinds))
        self.correct = self.correct + torch.bincount(kind_ids[rewards > 0.5], minlength=len(self.kinds))

    def compute(self) -> dict[str, Float[Tensor, ""]]:
        """Share of correct solutions by name of the kind, over all ranks."""
        return dict(zip(self.kinds, self.correct / self.solutions, strict=True))
