"""Which solutions share the computation of their prompt."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from laser_lightning.shapes import Int


@dataclass(frozen=True)
class PromptSharing:
    """Lets solutions of one prompt share its computation in trees: a prompt with several responses behind it, each of
    which sees the prompt and itself.

    The prompt is then computed once for a tree. Attention goes over all pairs of places of a tree, though, of which
    those of two responses are for nothing. With P tokens of prompt and S of k responses a tree costs
    (P + S) * (1 + (P + S) / A), in units of a token's work without attention, where A is the number of places that cost
    as much to attend to. For each of its solutions that is least at S = sqrt(P * (P + A)).

    Attributes:
        attention_places: A; infinite for trees as large as there is room for.
        most_cost: of a tree, in parts of the k * P + S tokens that its solutions have alone.
    """

    attention_places: float = math.inf
    most_cost: float = math.inf

    def response_tokens(self, prompt_tokens: int) -> float:
        """The most tokens S that the responses of a tree have together, where there are several.

        Args:
            prompt_tokens: P.
        """
        return math.sqrt(prompt_tokens * (prompt_tokens + self.attention_places))

    def pays(self, prompt_tokens: int, response_tokens: int, solutions: int) -> bool:
        """Whether a tree costs less than its solutions alone.

        Args:
            prompt_tokens: P.
            response_tokens: S.
            solutions: k.
        """
        tokens = prompt_tokens + response_tokens
        cost = tokens * (1 + tokens / self.attention_places)
        return cost <= self.most_cost * (solutions * prompt_tokens + response_tokens)


class Tree(NamedTuple):
    """Solutions of one prompt that are computed together.

    Attributes:
        solutions: their numbers; one alone is computed as a plain sequence.
        tokens: the prompt's, once, and those of the responses.
    """

    solutions: list[int]
    tokens: int


def plant_trees(
    prompts: Sequence[int],
    prompt_lengths: Sequence[int],
    response_lengths: Sequence[int],
    sharing: PromptSharing | None,
    most_tokens: float = math.inf,
) -> list[Tree]:
    """Put solutions of the same prompt into trees, the longest responses first; each alone without sharing.

    Args:
        prompts: the prompt of each of M solutions; equal numbers are equal prompts.
        prompt_lengths: tokens of each solution's prompt.
        response_lengths: tokens of each response.
        sharing: how much is worth sharing; None for nothing.
        most_tokens: of a tree of several solutions.

    Returns:
        Trees with all M solutions, in an order that follows from the arguments alone.
    """
    every = zip(prompt_lengths, response_lengths, strict=True)
    if sharing is None:
        return [Tree([number], prompt + response) for number, (prompt, response) in enumerate(every)]
    groups: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(number)
    trees: list[Tree] = []
    for group in groups.values():
        prompt_tokens = prompt_lengths[group[0]]
        most = min(sharing.response_tokens(prompt_tokens), most_tokens - prompt_tokens)
        for tree in _filled(sorted(group, key=lambda number: -response_lengths[number]), response_lengths, most):
            tokens = sum(response_lengths[number] for number in tree)
            if len(tree) > 1 and sharing.pays(prompt_tokens, tokens, len(tree)):
                trees.append(Tree(tree, prompt_tokens + tokens))
            else:
                trees += [Tree([number], prompt_tokens + response_lengths[number]) for number in tree]
    return trees


def _filled(numbers: Sequence[int], tokens: Sequence[int], most: float) -> list[list[int]]:
    """Numbers in order, as many together as have at most so many tokens; one alone may have more."""
    parts: list[list[int]] = []
    held = 0
    for number in numbers:
        held += tokens[number]
        if not parts or held > most:
            parts.append([])
            held = tokens[number]
        parts[-1].append(number)
    return parts


def number_prompts(prompt_ids: Int[Tensor, "P Lp"], prompt_lengths: Int[Tensor, " P"]) -> Int[Tensor, " P"]:
    """[P] numbers of prompts, the same for those with the same tokens, whoever's they are.

    Args:
        prompt_ids: [P, Lp] int64, right-padded with anything.
        prompt_lengths: [P] int64.
    """
    places = torch.arange(prompt_ids.shape[1], device=prompt_ids.device)
    tokens = prompt_ids.where(places < prompt_lengths[:, None], 0)
    rows = torch.cat((prompt_lengths[:, None], tokens), dim=1)  # the padding may be a token, too
    return rows.unique(dim=0, return_inverse=True)[1]
