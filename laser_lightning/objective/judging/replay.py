"""The solutions of the last rounds, and which of them a judging update sees."""

import random
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from laser_lightning.distributed.ranks import Ranks
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout, concat_rollouts
from laser_lightning.shapes import Float

WRONG, RIGHT, CUT = 0, 1, 2
"""Classes of solutions: finished and incorrect, finished and correct, truncated."""


@dataclass(frozen=True)
class Replay:
    """Groups that a judging update replays on this rank, with those of their solutions that were drawn.

    Attributes:
        rollout: the groups, N solutions.
        drawn: [N] float32, how many solutions of its group and class each drawn one stands for; 0 for the others.
    """

    rollout: Rollout
    drawn: Float[Tensor, " N"]


class ReplayBuffer:
    """Holds this rank's groups with correct and incorrect solutions of the last rounds, in the host's memory.

    Which groups and solutions an update sees is a function of the seed, the update and the problems: not of the ranks
    that hold them, and of no random state.

    Args:
        rounds: number of rounds that are held.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self._held: list[tuple[int, Rollout]] = []  # with the numbers of their steps

    def keep(self, step: int, rollout: Rollout) -> None:
        """Take a round in, and let go of the oldest one.

        Args:
            step: the round's number.
            rollout: its solutions.
        """
        classes = rollout.grouped(_classes(rollout))
        mixed = (classes == RIGHT).any(dim=1) & (classes == WRONG).any(dim=1)
        self._held = [*self._held, (step, moved(rollout.select(mixed), torch.device("cpu")))][-self.rounds :]

    def draw(self, groups: int, seed: str, spare: Rollout, ranks: Ranks, truncated: bool) -> Replay:
        """Draw groups of all ranks, and from each as many correct as incorrect solutions; all ranks call it together.

        Args:
            groups: number of groups over all ranks; fewer where fewer are held.
            seed: names the update.
            spare: a round on the device of the update; without a drawn solution stands for a rank's own, if it has
                none.
            ranks: the processes.
            truncated: draw truncated solutions too, at most as many as correct ones.
        """
        lots = [
            [random.Random(f"{seed} {step} {problem.index}") for problem in rollout.problems]
            for step, rollout in self._held
        ]
        tickets = torch.tensor([lot.random() for row in lots for lot in row], dtype=torch.float64)
        limit = _smallest(tickets, groups, ranks, spare.rewards.device)
        parts, drawn = [], []
        for (_, rollout), row, own in zip(self._held, lots, tickets.split([len(row) for row in lots]), strict=True):
            chosen = (own <= limit).nonzero().flatten()
            if not len(chosen):
                continue
            parts.append(rollout.select(chosen))
            for group, number in zip(parts[-1].grouped(_classes(parts[-1])), chosen.tolist(), strict=True):
                drawn.append(_half_and_half(group, row[number], truncated))
        device = spare.rewards.device
        if not parts:
            spare = spare.select(torch.zeros(1, dtype=torch.long, device=device))
            return Replay(spare, torch.zeros(len(spare.rollouts), device=device))
        return Replay(moved(reduce(concat_rollouts, parts), device), torch.cat(drawn).to(device))


def _classes(rollout: Rollout) -> Tensor:
    right = (rollout.rewards > CORRECT_THRESHOLD).long()
    return right.masked_fill(~rollout.rollouts.finished, CUT)


def _smallest(tickets: Tensor, number: int, ranks: Ranks, device: torch.device) -> float:
    """The largest of the ``number`` smallest tickets of all ranks."""
    mine = torch.full((number,), torch.inf, dtype=torch.float64)
    first = tickets.sort().values[:number]
    mine[: len(first)] = first
    return float(ranks.stack(mine.to(device)).flatten().sort().values[number - 1])


def _half_and_half(classes: Tensor, lot: random.Random, truncated: bool) -> Tensor:
    """[G] what each solution of a group stands for, of which as many correct as incorrect ones are drawn."""
    order = torch.tensor(lot.sample(range(len(classes)), len(classes)))
    counts = torch.bincount(classes, minlength=3)
    size = int(counts[:CUT].min())
    stands_for = torch.zeros(len(classes))
    for one in (WRONG, RIGHT, CUT) if truncated else (WRONG, RIGHT):
        of_class = order[classes[order] == one][:size]
        stands_for[of_class] = float(counts[one]) / max(1, len(of_class))
    return stands_for


def moved(rollout: Rollout, device: torch.device) -> Rollout:
    """The same round with all tensors on a device."""

    def of(record: Rollouts | Rollout) -> dict[str, Any]:
        held = {field.name: getattr(record, field.name) for field in fields(record)}
        return {name: value.to(device) for name, value in held.items() if isinstance(value, Tensor)}

    return replace(rollout, rollouts=replace(rollout.rollouts, **of(rollout.rollouts)), **of(rollout))
