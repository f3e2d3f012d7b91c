"""What a training step is filled with, of the groups that all processes sampled for it (DAPO's dynamic sampling)."""

from functools import reduce

import torch
from torch import Tensor

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.records.rollout import Rollout, SampledStep, concat_rollouts
from laser_lightning.shapes import Bool


def is_filled(kept: Bool[Tensor, " K"], count: int, ranks: Ranks) -> bool:
    """Whether the processes together have groups enough; all ranks call together.

    Args:
        kept: which of this rank's groups a step may be filled with.
        count: groups that each of them trains on.
        ranks: the processes.
    """
    return int(ranks.sum(kept.sum())) >= count * ranks.count


def fill_step(sampled: Rollout, kept: Bool[Tensor, " K"], count: int, ranks: Ranks) -> SampledStep:
    """Fill a step with the first groups that are kept, in the order in which one process would have drawn all.

    Where there are too few of them, the first of the others fill the places. So what is trained on does not depend on
    the number of processes. One that has more of these groups than its share hands them to others; all ranks call
    together.

    Args:
        sampled: this rank's K groups, as many on each rank.
        kept: which of them the step may be filled with.
        count: groups that each rank trains on.
        ranks: the processes.

    Returns:
        The step, with ``count`` groups on this rank.
    """
    drawn = ranks.stack(kept.int()).T.flatten()  # place by place, of every rank
    chosen = drawn.argsort(descending=True, stable=True)[: count * ranks.count].tolist()
    shares = _dealt(chosen, count, ranks.count)
    own = shares[ranks.index]

    def select(numbers: list[int]) -> Rollout:
        return sampled.select(torch.tensor(numbers, device=kept.device) // ranks.count)

    here = _held(own, ranks.index, ranks.count)
    parts = [select(here)] if here else []
    if any(_held(share, rank, ranks.count) != share for rank, share in enumerate(shares)):
        away = [number for number in _held(chosen, ranks.index, ranks.count) if number not in here]
        handed = {number: select([number]).to(torch.device("cpu")) for number in away}
        found = {number: group for groups in ranks.gather(handed) for number, group in groups.items()}
        parts += [found[number].to(kept.device) for number in own if number not in here]
    return SampledStep(sampled, reduce(concat_rollouts, parts), chosen=torch.tensor(own, device=kept.device))


def _dealt(chosen: list[int], count: int, ranks: int) -> list[list[int]]:
    """The groups that each rank trains on: first those that it has, then what others have too many of."""
    shares = [_held(chosen, rank, ranks) for rank in range(ranks)]
    surplus = [number for share in shares for number in share[count:]]
    own = [share[:count] for share in shares]
    for share in own:
        missing = count - len(share)
        share += surplus[:missing]
        surplus = surplus[missing:]
    return own


def _held(numbers: list[int], rank: int, ranks: int) -> list[int]:
    """Those of some groups that a rank sampled: each draw was dealt out one by one."""
    return [number for number in numbers if number % ranks == rank]
