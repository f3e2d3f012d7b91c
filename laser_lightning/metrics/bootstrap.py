"""Bootstrap intervals of means over problems."""

import torch
from torch import Tensor

from laser_lightning.shapes import Float, Real

RESAMPLES = 2000
LEVEL = 0.95
# Bounds the memory of the draws: this many resamples at a time.
_AT_ONCE = 100


def resampled_means(
    values: Real[Tensor, "P C"], seed: int = 0, resamples: int = RESAMPLES
) -> Float[Tensor, "{resamples} C"]:
    """Means of bootstrap resamples: P problems are drawn from the P problems with replacement, again and again.

    Solutions are not resampled: problems are what another test set would have others of. All columns share the
    resamples, so differences of columns may be taken.

    Args:
        values: [P, C], the values of P problems in C columns.
        seed: of the draws; the same seed and number of problems give the same resamples.
        resamples: number of resamples, R.

    Returns:
        [R, C], float64, on the CPU; NaN (undefined) for fewer than two problems, whose spread nobody knows.
    """
    problems, columns = values.shape
    if problems < 2:
        return torch.full((resamples, columns), torch.nan, dtype=torch.float64)
    values = values.detach().to("cpu", torch.float64)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for start in range(0, resamples, _AT_ONCE):
        size = min(_AT_ONCE, resamples - start)
        drawn = torch.randint(problems, (size, problems), generator=generator)
        times = torch.zeros(size, problems, dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        means.append(times @ values / problems)
    return torch.cat(means)


def percentile_interval(
    means: Float[Tensor, "resamples C"], level: float = LEVEL
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """The percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    Args:
        means: [R, C], from ``resampled_means``, or a mean of several such.
        level: share of the resamples that lies within.

    Returns:
        Lower and upper ends, each [C]; NaN where a mean is NaN.
    """
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype), dim=0)
    return low, high
