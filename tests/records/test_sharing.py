"""Which solutions share their prompt: trees by hand, and the size at which they cost least."""

import math
from collections.abc import Callable

import pytest
import torch

from laser_lightning.records.batching import MicroBatch, Rollouts, micro_batches
from laser_lightning.records.sharing import PromptSharing, Tree, number_prompts, plant_trees

MakeRollouts = Callable[..., Rollouts]


def cost(prompt: int, response: int, solutions: int, attention_places: float) -> float:
    """Of one of the solutions of a tree."""
    tokens = prompt + solutions * response
    return tokens * (1 + tokens / attention_places) / solutions


@pytest.mark.parametrize("prompt", [16, 64, 512])
@pytest.mark.parametrize("response", [8, 64, 512])
def test_a_tree_has_the_size_at_which_a_solution_costs_least(prompt: int, response: int) -> None:
    places, group = 3456.0, 2000
    (first, *_) = plant_trees([0] * group, [prompt] * group, [response] * group, PromptSharing(places))
    best = min(range(1, group + 1), key=lambda solutions: cost(prompt, response, solutions, places))
    # The best number is a whole one to either side of the best size of all.
    assert len(first.solutions) in (best, max(1, best - 1))
    chosen, alone = (cost(prompt, response, number, places) for number in (len(first.solutions), 1))
    assert chosen <= alone


def test_trees_by_hand() -> None:
    # sqrt(3 * (3 + 24)) = 9: the responses of a tree have at most 9 tokens, the longest come first.
    assert PromptSharing(24.0).response_tokens(3) == 9.0
    prompts, lengths, responses = [7, 8, 7, 7, 7, 8], [3, 1, 3, 3, 3, 1], [4, 3, 5, 2, 20, 2]
    # Of prompt 7: 20 alone, 5 + 4, and 2. Of prompt 8: sqrt(1 * 25) = 5 = 3 + 2.
    trees = [Tree([4], 23), Tree([2, 0], 12), Tree([3], 5), Tree([1, 5], 6)]
    assert plant_trees(prompts, lengths, responses, PromptSharing(24.0)) == trees
    # With room for 10 tokens 5 + 4 are too many beside a prompt of 3, and 5 + 2 are not.
    found = plant_trees(prompts, lengths, responses, PromptSharing(24.0), most_tokens=10)
    assert found == [Tree([4], 23), Tree([2], 8), Tree([0, 3], 9), Tree([1, 5], 6)]
    # Without a price of attention all are together.
    assert plant_trees(prompts, lengths, responses, PromptSharing()) == [Tree([4, 2, 0, 3], 34), Tree([1, 5], 6)]
    alone = plant_trees(prompts, lengths, responses, None)
    assert alone == [Tree([row], lengths[row] + responses[row]) for row in range(6)]


def test_prompts_are_the_same_by_their_tokens_alone() -> None:
    # The second and the third differ in their padding, the fourth in its length: 0 is a token, too.
    ids = torch.tensor([[5, 6, 7], [5, 6, 9], [5, 6, 0], [5, 6, 0], [5, 6, 7]])
    first, second, third, fourth, fifth = number_prompts(ids, torch.tensor([3, 2, 2, 3, 3])).tolist()
    assert first == fifth
    assert second == third
    assert len({first, second, fourth}) == 3


def tokens_of(batch: MicroBatch, packed: bool) -> int:
    """Places that a micro-batch takes in the pass, by hand."""
    numbers = list(range(len(batch.rows))) if batch.trees is None else batch.trees.tolist()
    sizes: dict[int, int] = {}
    for number, prompt, response in zip(
        numbers, batch.prompt_lengths.tolist(), batch.response_lengths.tolist(), strict=True
    ):
        sizes[number] = sizes.get(number, prompt) + response
    return sum(sizes.values()) if packed else len(sizes) * max(sizes.values())


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ungrouped", [False, True])
@pytest.mark.parametrize("token_budget", [15, 24, 47, 10_000])
def test_micro_batches_of_trees(make_rollouts: MakeRollouts, token_budget: int, ungrouped: bool, packed: bool) -> None:
    rollouts = make_rollouts(prompts=5, group_size=3)  # at most 6 + 9 tokens
    rows = torch.randperm(15, generator=torch.Generator().manual_seed(0))[:12]
    asked = rollouts.ungrouped() if ungrouped else rollouts
    batches = micro_batches(asked, rows, token_budget, 0, packed, sharing=PromptSharing())
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == sorted(rows.tolist())
    for batch in batches:
        assert tokens_of(batch, packed) <= token_budget
        groups = (batch.rows // 3).tolist()
        if batch.trees is None:
            assert len(set(groups)) == len(groups) or token_budget < 25
            continue
        numbers = batch.trees.tolist()
        assert numbers == sorted(numbers)
        assert set(numbers) == set(range(numbers[-1] + 1))
        of_tree = dict(zip(numbers, groups, strict=True))
        assert [of_tree[number] for number in numbers] == groups  # one prompt in a tree
    plain = micro_batches(asked, rows, token_budget, 0, packed)
    assert len(batches) <= len(plain)
    if token_budget == 10_000:
        (batch,) = batches
        assert batch.trees is not None
        assert int(batch.trees[-1]) + 1 == len({row // 3 for row in rows.tolist()})


def test_a_number_of_micro_batches_is_one_of_trees(make_rollouts: MakeRollouts) -> None:
    rollouts = make_rollouts(prompts=2, group_size=4)
    for at_least, expected in ((1, 1), (2, 2), (5, 2)):
        batches = micro_batches(rollouts, torch.arange(8), 1000, 0, at_least=at_least, sharing=PromptSharing())
        assert len(batches) == expected


def test_trees_move_with_their_micro_batch(make_rollouts: MakeRollouts) -> None:
    (batch,) = micro_batches(make_rollouts(), torch.arange(12), 1000, 0, sharing=PromptSharing(math.inf))
    moved = batch.to(torch.device("meta"))
    assert moved.trees is not None
    assert moved.trees.device.type == "meta"
