"""Accuracy against the number of solutions k that are looked at: pass@k, votes and best-of-k."""

from collections.abc import Sequence

import torch
from torch import Tensor

from laser_lightning.metrics.groups import SampleGroups
from laser_lightning.metrics.pass_at_k import PassAtK
from laser_lightning.metrics.votes import FIXED_RULES, VoteRule
from laser_lightning.metrics.voting import problem_accuracy
from laser_lightning.shapes import Float


def curve_points(samples: int) -> list[int]:
    """1, 2, 4, ... up to the number of samples, which is the last one also where it is no power of two.

    Args:
        samples: solutions per problem; 0 gives no point.
    """
    powers = [1 << exponent for exponent in range(samples.bit_length())]
    return sorted({*powers, samples} - {0})


def problem_curves(groups: SampleGroups, votes: Sequence[VoteRule] = ()) -> dict[str, Float[Tensor, " P"]]:
    """The value of each problem at each k, under the names of the metrics: ``pass@2``, ``maj@2``, ``best_of@2``, ...

    All solutions are used at every k. pass@k is the unbiased estimator from all of them. For the others a problem's n
    solutions are cut into n // k blocks of k consecutive ones, and its value is the mean over the blocks: exact,
    the same in every call, and without bias, since solutions of one problem are independent draws. At
    the largest k this is what the metrics of those names give.

    Args:
        groups: the solutions of P problems; k goes up to the least number of solutions that a problem has.
        votes: rules beside those that are always there.

    Returns:
        By name [P] float32, in the order of k.
    """
    least = int(groups.sizes.min()) if len(groups.sizes) else 0
    values: dict[str, Tensor] = {}
    for k in curve_points(least):
        values[f"pass@{k}"] = PassAtK(k).problem_values(groups)
        blocks, owner = groups.blocks(k)
        for rule in (*FIXED_RULES, *votes):
            sums = torch.zeros_like(groups.sizes, dtype=torch.float32)
            sums = sums.index_add(0, owner, problem_accuracy(rule, blocks))
            values[f"{rule.name}@{k}"] = sums / (groups.sizes // k)
    return values
