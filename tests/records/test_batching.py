"""Micro-batches against a slow twin, and masks that come from lengths alone."""

from collections.abc import Callable
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.records.batching import MicroBatch, Rollouts, length_mask, micro_batches, pad_rows

MakeRollouts = Callable[..., Rollouts]


def sequence_of(rollouts: Rollouts, row: int) -> list[int]:
    """Prompt and response of one solution, by plain slicing."""
    prompt = row // rollouts.group_size
    prompt_ids = rollouts.prompt_ids[prompt].tolist()[: int(rollouts.prompt_lengths[prompt])]
    return prompt_ids + rollouts.response_ids[row].tolist()[: int(rollouts.response_lengths[row])]


def rows_of(batches: list[MicroBatch]) -> list[int]:
    return [row for batch in batches for row in batch.rows.tolist()]


def test_length_mask() -> None:
    assert length_mask(torch.tensor([0, 1, 3]), 3).tolist() == [
        [False, False, False],
        [True, False, False],
        [True, True, True],
    ]


@pytest.mark.parametrize(
    ("left", "expected"), [(False, [[1, 2, 3], [4, 9, 9], [9, 9, 9]]), (True, [[1, 2, 3], [9, 9, 4], [9, 9, 9]])]
)
def test_pad_rows(left: bool, expected: list[list[int]]) -> None:
    ids, lengths = pad_rows([[1, 2, 3], [4], []], pad=9, left=left)
    assert ids.tolist() == expected
    assert lengths.tolist() == [3, 1, 0]
    assert ids.dtype == lengths.dtype == torch.long


@pytest.mark.parametrize(("rows", "shape"), [([], (0, 0)), ([[], []], (2, 0))])
def test_pad_rows_of_nothing(rows: list[list[int]], shape: tuple[int, int]) -> None:
    ids, lengths = pad_rows(rows, pad=0)
    assert ids.shape == shape
    assert lengths.tolist() == [0] * len(rows)
    assert ids.dtype == lengths.dtype == torch.long


def test_rollouts_read_their_masks_off_lengths() -> None:
    rollouts = Rollouts(
        prompt_ids=torch.tensor([[5, 0]]),
        prompt_lengths=torch.tensor([1]),
        response_ids=torch.tensor([[7, 0, 0], [0, 8, 1]]),
        response_lengths=torch.tensor([1, 3]),
        finished=torch.tensor([False, True]),
        sampling_log_probs=torch.zeros(2, 3),
        reward_token_log_probs=torch.zeros(2, 1),
    )
    assert len(rollouts) == 2
    assert rollouts.group_size == 2
    assert rollouts.response_mask.tolist() == [[True, False, False], [True, True, True]]
    assert rollouts.responses() == [[7], [0, 8, 1]]
    # 0 fills the first row's unused places, but only the second one sampled it.
    assert rollouts.contains(0).tolist() == [False, True]
    assert rollouts.contains(7).tolist() == [True, False]
    assert rollouts.contains(3).tolist() == [False, False]


@pytest.mark.parametrize("pad", [0, 1, 77])
@pytest.mark.parametrize("token_budget", [15, 16, 30, 47, 100, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_against_a_slow_twin(make_rollouts: MakeRollouts, seed: int, token_budget: int, pad: int) -> None:
    rollouts = make_rollouts(prompts=5, group_size=3, seed=seed)  # at most 6 + 9 tokens
    rows = torch.randperm(15, generator=torch.Generator().manual_seed(seed))[:12]
    batches = micro_batches(rollouts, rows, token_budget, pad)
    assert sorted(rows_of(batches)) == sorted(rows.tolist())  # each exactly once
    lengths = [len(sequence_of(rollouts, row)) for row in rows_of(batches)]
    assert lengths == sorted(lengths, reverse=True)
    for batch in batches:
        assert batch.input_ids.numel() <= token_budget
        sequences = [sequence_of(rollouts, row) for row in batch.rows.tolist()]
        width = max(map(len, sequences))
        assert batch.input_ids.tolist() == [ids + [pad] * (width - len(ids)) for ids in sequences]
        prompts = [row // 3 for row in batch.rows.tolist()]
        assert batch.prompt_lengths.tolist() == rollouts.prompt_lengths[prompts].tolist()
        assert batch.response_lengths.tolist() == rollouts.response_lengths[batch.rows].tolist()
        assert batch.response_mask.shape[1] == int(batch.response_lengths.max())
        assert batch.response_mask.sum(dim=1).tolist() == batch.response_lengths.tolist()


def test_a_budget_is_used_up_before_the_next_batch_begins(make_rollouts: MakeRollouts) -> None:
    rollouts = make_rollouts(prompts=5, group_size=3)
    batches = micro_batches(rollouts, torch.arange(15), 47, 0)
    assert len(batches) > 1
    for batch in batches[:-1]:
        rows, width = batch.input_ids.shape
        assert (rows + 1) * width > 47


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("at_least", [2, 3, 5, 9, 12, 15, 20])
@pytest.mark.parametrize("token_budget", [15, 40, 100, 10_000])
def test_even_parts_against_all_ways_to_cut(
    make_rollouts: MakeRollouts, token_budget: int, at_least: int, packed: bool
) -> None:
    rollouts = make_rollouts(prompts=4, group_size=3, seed=token_budget)
    rows, needed = torch.arange(12), len(micro_batches(rollouts, torch.arange(12), token_budget, 0, packed))
    batches = micro_batches(rollouts, rows, token_budget, 0, packed, at_least)
    assert sorted(rows_of(batches)) == rows.tolist()
    assert len(batches) == min(max(at_least, needed), 12)
    lengths = [len(sequence_of(rollouts, row)) for row in rows_of(batches)]
    assert lengths == sorted(lengths, reverse=True)

    def places(part: list[int]) -> int:
        return sum(part) if packed else len(part) * max(part)

    ours = max(places([len(sequence_of(rollouts, row)) for row in batch.rows.tolist()]) for batch in batches)
    cuts = combinations(range(1, 12), len(batches) - 1)
    best = min(max(places(lengths[a:b]) for a, b in pairwise((0, *cut, 12))) for cut in cuts)
    assert ours == best <= token_budget


@pytest.mark.parametrize("token_budget", [15, 16, 30, 47, 10_000])
def test_a_packed_budget_counts_tokens(make_rollouts: MakeRollouts, token_budget: int) -> None:
    rollouts = make_rollouts(prompts=5, group_size=3)
    tokens = [
        sum(len(sequence_of(rollouts, row)) for row in batch.rows.tolist())
        for batch in micro_batches(rollouts, torch.arange(15), token_budget, 0, packed=True)
    ]
    assert max(tokens) <= token_budget
    assert len(tokens) <= len(micro_batches(rollouts, torch.arange(15), token_budget, 0))
    assert all(one + other > token_budget for one, other in pairwise(tokens))


def test_the_cut_depends_on_lengths_alone(make_rollouts: MakeRollouts) -> None:
    rollouts = make_rollouts(prompts=5, group_size=3)
    first = micro_batches(rollouts, torch.arange(15), 40, 0)
    rollouts.response_ids = rollouts.response_ids.flip(0)
    second = micro_batches(rollouts, torch.arange(15), 40, 0)
    assert [batch.rows.tolist() for batch in first] == [batch.rows.tolist() for batch in second]


def test_no_rows_make_no_batches(make_rollouts: MakeRollouts) -> None:
    nothing = torch.tensor([], dtype=torch.long)
    assert micro_batches(make_rollouts(), nothing, 100, 0) == []
    assert micro_batches(make_rollouts(), nothing, 100, 0, at_least=3) == []


def test_a_sequence_longer_than_the_budget_is_refused(make_rollouts: MakeRollouts) -> None:
    rollouts = make_rollouts()
    longest = max(len(sequence_of(rollouts, row)) for row in range(12))
    assert rows_of(micro_batches(rollouts, torch.arange(12), longest, 0))  # just fits
    with pytest.raises(UserError, match=rf"{longest} tokens .*micro_batch_tokens = {longest - 1}\b"):
        micro_batches(rollouts, torch.arange(12), longest - 1, 0)


def test_only_the_chosen_rows_must_fit(make_rollouts: MakeRollouts) -> None:
    rollouts = make_rollouts()
    lengths = torch.tensor([len(sequence_of(rollouts, row)) for row in range(12)])
    shortest = lengths.argmin(keepdim=True)
    (batch,) = micro_batches(rollouts, shortest, int(lengths.min()), 0)
    assert batch.rows.tolist() == shortest.tolist()


def test_a_micro_batch_moves_as_a_whole(make_rollouts: MakeRollouts) -> None:
    (batch,) = micro_batches(make_rollouts(), torch.arange(12), 1000, 0)
    moved = batch.to(torch.device("meta"))
    parts: list[Tensor] = [moved.rows, moved.input_ids, moved.prompt_lengths, moved.response_lengths]
    assert {part.device.type for part in parts} == {"meta"}
