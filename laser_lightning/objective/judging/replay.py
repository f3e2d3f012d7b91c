"""The solutions of the last rounds, and which of them a judging update sees."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from laser_lightning.data.problem import Problem
from laser_lightning.distributed.ranks import Ranks
from laser_lightning.objective.judging.held_round import HeldRound
from laser_lightning.objective.self_reward.solutions import CORRECT_THRESHOLD
from laser_lightning.records.rollout import Rollout, concat_rollouts
from laser_lightning.shapes import Bool, Float, Int

INCORRECT, CORRECT, TRUNCATED = 0, 1, 2
"""Classes of solutions; the first two are finished."""


@dataclass(frozen=True)
class Replay:
    """Groups that a judging update draws on this rank, with those of their solutions that it sees.

    Attributes:
        rollout: the groups, N solutions.
        stands_for: [N] float32, how many solutions of its group and class each drawn one stands for; 0 for the others.
    """

    rollout: Rollout
    stands_for: Float[Tensor, " N"]

    @property
    def is_deciding(self) -> Bool[Tensor, " N"]:
        """[N] bool: the only correct, or only incorrect, solution of its group."""
        classes = self.rollout.grouped(_classes(self.rollout))
        alone = [
            (of_class := classes == one) & (of_class.sum(dim=1, keepdim=True) == 1) for one in (INCORRECT, CORRECT)
        ]
        return (alone[0] | alone[1]).flatten()


class ReplayBuffer:
    """Holds this rank's groups with both correct and incorrect solutions of the last rounds, in the host's memory.

    Which groups and solutions an update sees follows from the seed, the number of the round and the problem alone: not
    from the rank that holds them, nor from any random state.

    Args:
        rounds: number of rounds that are held.

    Attributes:
        round: the number of the latest round, from 1; the same on all ranks.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.round = 0
        self._held: list[HeldRound] = []

    def keep(self, rollout: Rollout) -> None:
        """Take a round in, and let go of the oldest one.

        Args:
            rollout: its solutions.
        """
        classes = rollout.grouped(_classes(rollout))
        mixed = (classes == CORRECT).any(dim=1) & (classes == INCORRECT).any(dim=1)
        self.round += 1
        latest = [HeldRound.of(self.round, rollout.select(mixed))] if bool(mixed.any()) else []
        self._held = [held for held in self._held + latest if held.number > self.round - self.rounds]

    def draw(self, groups: int, seed: str, ranks: Ranks, device: torch.device, truncated: bool) -> Replay | None:
        """Draw groups of all ranks, and of each as many correct as incorrect solutions; all ranks call it together.

        Args:
            groups: number of groups over all ranks; all where fewer are held.
            seed: names the update.
            ranks: the processes.
            device: where the solutions shall be.
            truncated: draw truncated solutions too, at most as many as correct ones.

        Returns:
            This rank's part; None where it has none.
        """
        lots = [[random.Random(f"{seed} {held.number} {p.index}") for p in held.problems] for held in self._held]
        tickets = [torch.tensor([lot.random() for lot in of_round], dtype=torch.float64) for of_round in lots]
        limit = _smallest(torch.cat([torch.empty(0, dtype=torch.float64), *tickets]), groups, ranks, device)
        parts, drawn = [], []
        for held, of_round, tickets_of_round in zip(self._held, lots, tickets, strict=True):
            chosen = (tickets_of_round <= limit).nonzero().flatten()
            if not len(chosen):
                continue
            rollout = held.groups(chosen, device)
            parts.append(rollout)
            classes = rollout.grouped(_classes(rollout)).cpu()
            drawn += [
                _half_and_half(of_group, of_round[number], truncated)
                for of_group, number in zip(classes, chosen.tolist(), strict=True)
            ]
        return Replay(reduce(concat_rollouts, parts), torch.cat(drawn).to(device)) if parts else None

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of this rank's part."""
        return {"round": self.round, "held": [held.state_dict() for held in self._held]}

    def load_state_dicts(self, states: list[dict[str, Any]], ranks: Ranks, problems: Mapping[int, Problem]) -> None:
        """Go on from what all ranks of a run saved, of which there may have been more or fewer.

        Args:
            states: of each rank.
            ranks: the processes.
            problems: those of the training set, by their row numbers.
        """
        self.round = states[0]["round"]
        own = [held for state in states[ranks.index :: ranks.count] for held in state["held"]]
        self._held = [HeldRound.from_state(held, problems) for held in own if held["number"] > self.round - self.rounds]


def _classes(rollout: Rollout) -> Int[Tensor, " N"]:
    correct = (rollout.rewards > CORRECT_THRESHOLD).long()
    return correct.masked_fill(~rollout.rollouts.finished, TRUNCATED)


def _smallest(tickets: Tensor, number: int, ranks: Ranks, device: torch.device) -> float:
    """The largest of the ``number`` smallest tickets of all ranks; infinite where there are fewer."""
    first = tickets.sort().values[:number]
    mine = torch.nn.functional.pad(first, (0, number - len(first)), value=torch.inf)
    return float(ranks.stack(mine.to(device)).flatten().sort().values[number - 1])


def _half_and_half(classes: Int[Tensor, " G"], lot: random.Random, truncated: bool) -> Float[Tensor, " G"]:
    """What each solution of a group stands for, of which as many correct as incorrect ones are drawn, 0 if it is not.

    Correct, incorrect and truncated ones stand for all of their class: sums of drawn ones, weighted by what they stand
    for, are in expectation the sums over the group.
    """
    order = torch.tensor(lot.sample(range(len(classes)), len(classes)))
    counts = torch.bincount(classes, minlength=3)
    most = int(counts[:TRUNCATED].min())
    stands_for = torch.zeros(len(classes))
    for one in (INCORRECT, CORRECT, TRUNCATED) if truncated else (INCORRECT, CORRECT):
        drawn = order[classes[order] == one][:most]
        stands_for[drawn] = float(counts[one]) / max(1, len(drawn))
    return stands_for
