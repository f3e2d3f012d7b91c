"""Which solutions share their prompt: trees by hand, and the size at which they cost least."""

import math
from collections.abc import Callable

import pytest
import torch

from laser_lightning.records.batching import MicroBatch, Rollouts, micro_batches
from laser_lightning.records.sharing import PromptSharing, Tree, number_prompts, plant_trees

MakeRollouts = Callable[..., Rollouts]


@pytest.mark.parametrize("prompt", [16, 64, 512])
@pytest.mark.parametrize("response", [8, 64, 512])
@pytest.mark.parametrize("width", [576, 4096])
def test_a_tree_has_the_size_at_which_a_solution_costs_least(prompt: int, response: int, width: int) -> None:
    places, group = 2.0 * width, 500

    def cost(solutions: int) -> float:
        """Of one of them."""
        tokens = prompt + solutions * response
        return tokens * (1 + tokens / places) / solutions

    known = [0] * group, [prompt] * group, [response] * group
    best = min(range(1, group + 1), key=cost)
    # The best number is a whole one to either side of the best size of all.
    (first, *_) = plant_trees(*known, PromptSharing(places))
    assert len(first.solutions) in (best, max(1, best - 1))
    # It is taken where it costs at most nine tenths of the tokens of each alone.
    (taken, *_) = plant_trees(*known, PromptSharing(places, 0.9))
    pays = cost(len(first.solutions)) <= 0.9 * (prompt + response)
    assert taken.solutions == (first.solutions if pays else [0])


def test_trees_by_hand() -> None:
    sharing = PromptSharing(144.0, 0.9)
    # The responses of a tree have at most 21 tokens behind 3 of a prompt, and 12 behind 1.
    assert sharing.response_tokens(3) == math.sqrt(3 * 147) == 21.0
    assert sharing.response_tokens(1) == pytest.approx(12.04, abs=0.01)
    prompts = [7, 8, 7, 7, 7, 8, 7, 9, 9, 7]
    lengths = [3, 1, 3, 3, 3, 1, 3, 3, 3, 3]
    responses = [6, 3, 8, 4, 30, 2, 3, 10, 9, 2]
    # Of prompt 7, longest first: 30 alone; 8 + 6 + 4 + 3 = 21, which cost 24 * (1 + 24 / 144) = 28, and at most
    # 0.9 * (4 * 3 + 21) = 29.7; and 2. Of prompt 8: 3 + 2, 6 * (1 + 6 / 144) = 6.25 <= 0.9 * 7.
    # Of prompt 9: 10 + 9 would cost 22 * (1 + 22 / 144) = 25.4 > 0.9 * 25, so each is alone.
    alone = [Tree([7], 13), Tree([8], 12)]
    found = plant_trees(prompts, lengths, responses, sharing)
    assert found == [Tree([4], 33), Tree([2, 0, 3, 6], 24), Tree([9], 5), Tree([1, 5], 6), *alone]
    # With room for 13 tokens 6 + 4 and 3 + 2 are left to share the 3 of prompt 7.
    found = plant_trees(prompts, lengths, responses, sharing, most_tokens=13)
    assert found == [Tree([4], 33), Tree([2], 11), Tree([0, 3], 13), Tree([6, 9], 8), Tree([1, 5], 6), *alone]
    # Where attention costs nothing all are together.
    found = plant_trees(prompts, lengths, responses, PromptSharing())
    assert found == [Tree([4, 2, 0, 3, 6, 9], 56), Tree([1, 5], 6), Tree([7, 8], 22)]
    found = plant_trees(prompts, lengths, responses, None)
    assert found == [Tree([row], lengths[row] + responses[row]) for row in range(10)]


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
