"""Which rank updates on which solutions: those of all ranks are dealt out anew, so that no rank waits for another."""

import heapq
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.sharing import PromptSharing, Tree, number_prompts, plant_trees

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

OF_REWARD_TOKENS = ("reward_token_log_probs", "references")
"""Fields with a column for each reward token, and not for each place of a response."""

TargetsT = TypeVar("TargetsT", bound="DataclassInstance")


def dealt(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Deal solutions, or trees of them, out to ranks, so that their tokens are as even as can be told at once.

    The longest solution comes first, and each goes to the rank with the fewest tokens so far (longest processing time
    first: the heaviest rank has at most 4/3 of what the best deal would give it).

    Args:
        lengths: tokens of each one, prompt and response.
        ranks: number of ranks.

    Returns:
        Those of each rank, ascending.
    """
    loads = [(0, rank) for rank in range(ranks)]
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        load, rank = heapq.heappop(loads)
        shares[rank].append(number)
        heapq.heappush(loads, (load + lengths[number], rank))
    return [sorted(share) for share in shares]


def balance_ranks(
    rollouts: Rollouts,
    targets: TargetsT,
    rows: Tensor,
    ranks: Ranks,
    sharing: PromptSharing | None = None,
) -> tuple[Rollouts, TargetsT, Tensor]:
    """This rank's share of an optimizer step on the solutions of all ranks.

    Weights and advantages are of the whole step already, so who computes a solution's gradient changes only rounding.

    Args:
        rollouts: this rank's N solutions.
        targets: theirs, a record whose fields are tensors with a row for each of the N solutions, or None.
        rows: [M] int64, those that have a gradient.
        ranks: the processes that train together, which all call it together; those that compute each micro-batch
            together get the same share.
        sharing: solutions that share their prompt stay together, up to a rank's share of all tokens.

    Returns:
        The solutions of the share, each with its prompt (G = 1), their targets, and [M'] int64, which of them count:
        all, or none where there are fewer solutions than ranks; then one is there to fill a pass.
    """
    mine = rollouts.ungrouped().select(rows)
    if ranks.max(int(mine.loss_mask is not None)):  # on one rank, so that all exchange one
        mine.loss_mask = mine.trained_mask
    known = {f.name: value for f in fields(targets) if (value := getattr(targets, f.name)) is not None}
    sizes = ranks.stack(rows.new_tensor([len(rows), mine.prompt_ids.shape[1], mine.response_ids.shape[1]]))
    counts = sizes[:, 0].tolist()
    prompt_width, response_width = sizes[:, 1:].amax(dim=0).tolist()

    def of_all_ranks(name: str, value: Tensor) -> Tensor:
        """The rows of every rank below each other."""
        width = prompt_width if name == "prompt_ids" else response_width
        if name in OF_REWARD_TOKENS:
            width = value.shape[1]
        columns_missing = (0, 0) * (value.ndim - 2) + (0, width - value.shape[1]) if value.ndim > 1 else ()
        sent = value.byte() if value.dtype == torch.bool else value  # gloo sends no bools
        padded = nn.functional.pad(sent, (*columns_missing, 0, max(counts) - len(value)))
        gathered = ranks.stack(padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)]).to(value.dtype)

    held = {f.name: value for f in fields(Rollouts) if (value := getattr(mine, f.name)) is not None}
    everything = {name: of_all_ranks(name, value) for name, value in held.items()}
    every_solution = Rollouts(**everything)
    shares = ranks.count // ranks.together
    trees = _trees_of(every_solution, sharing, shares)
    numbers = dealt([tree.tokens for tree in trees], shares)[ranks.index // ranks.together]
    share = sorted(solution for number in numbers for solution in trees[number].solutions)
    chosen = torch.tensor(share or [0], device=rows.device)
    return (
        every_solution.select(chosen),
        type(targets)(**{name: of_all_ranks(name, value[rows])[chosen] for name, value in known.items()}),
        torch.arange(len(share), device=rows.device),
    )


def _trees_of(rollouts: Rollouts, sharing: PromptSharing | None, ranks: int) -> list[Tree]:
    """Solutions that share their prompt, in trees small enough to be dealt out; without sharing each alone."""
    lengths = rollouts.prompt_lengths.tolist(), rollouts.response_lengths.tolist()
    if sharing is None:
        return plant_trees(range(len(rollouts)), *lengths, None)
    known = number_prompts(rollouts.prompt_ids, rollouts.prompt_lengths).tolist(), *lengths
    whole = plant_trees(*known, sharing)
    return plant_trees(*known, sharing, most_tokens=sum(tree.tokens for tree in whole) / ranks)
