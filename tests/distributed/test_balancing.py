"""Solutions of all ranks, dealt out anew: each is there once, with its own targets, and the tokens are even."""

from typing import Any

import pytest
import torch
from thread_ranks import ThreadRanks, on_ranks

from laser_lightning.distributed.balancing import balance_ranks, dealt
from laser_lightning.objective.targets import Targets
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.sharing import PromptSharing


def test_the_longest_goes_to_the_rank_with_the_fewest_tokens() -> None:
    # 9 -> rank 0 (9, 0); 7 -> rank 1 (9, 7); 6 -> rank 1 (9, 13); 5 -> rank 0 (14, 13); 2 -> rank 1 (14, 15)
    assert dealt([5, 9, 2, 7, 6], 2) == [[0, 1], [2, 3, 4]]


def test_equal_lengths_are_dealt_in_turn() -> None:
    assert dealt([4] * 6, 3) == [[0, 3], [1, 4], [2, 5]]


def test_ranks_without_a_solution_have_an_empty_share() -> None:
    assert dealt([3], 3) == [[0], [], []]


def a_round(rank: int, prompts: int, group: int, widths: tuple[int, int]) -> tuple[Rollouts, Targets]:
    """Made so that every number tells the rank, the solution and the place that it belongs to."""
    total, (prompt_width, width) = prompts * group, widths
    number = 1000 * (rank + 1) + torch.arange(total)
    prompt_number = 1000 * (rank + 1) + torch.arange(prompts)
    generator = torch.Generator().manual_seed(rank)
    rollouts = Rollouts(
        prompt_ids=prompt_number[:, None].expand(prompts, prompt_width).clone(),
        prompt_lengths=torch.randint(1, prompt_width + 1, (prompts,), generator=generator),
        response_ids=number[:, None].expand(total, width).clone(),
        response_lengths=torch.randint(1, width + 1, (total,), generator=generator),
        finished=number % 2 == 0,
        sampling_log_probs=-number[:, None].float().expand(total, width).clone(),
        reward_token_log_probs=torch.where(number % 2 == 0, -number.float(), torch.nan)[:, None].repeat(1, 2),
    )
    targets = Targets(
        advantages=number.float() / 7,
        rewards=(number % 3).float(),
        policy_weights=number.float() * 2,
        self_reward_weights=number.float() * 3,
        self_reward_targets=number.float() * 4,
        references=number[:, None].float().repeat(1, 2) * 6,
        old_log_probs=rollouts.sampling_log_probs * 5,
        old_reading=number[:, None, None] + torch.arange(width)[:, None] * torch.tensor([10, 100]),
        marks=(number[:, None] + torch.arange(width)) % 3 == 0,
    )
    return rollouts, targets


def on_all_ranks(
    rounds: list[tuple[Rollouts, Targets]], rows: list[list[int]], sharing: PromptSharing | None = None
) -> list[Any]:
    def one(ranks: ThreadRanks) -> Any:
        rollouts, targets = rounds[ranks.index]
        kept = torch.tensor(rows[ranks.index], dtype=torch.long)
        return balance_ranks(rollouts, targets, kept, ranks, sharing)

    return on_ranks(len(rounds), one)


def test_every_solution_is_on_one_rank_with_all_that_belongs_to_it() -> None:
    rounds = [a_round(0, 2, 4, (3, 5)), a_round(1, 2, 4, (6, 9)), a_round(2, 1, 4, (2, 2))]
    rows = [[0, 1, 3, 7], [2, 3, 4, 5, 6], [1]]
    seen: list[int] = []
    for rollouts, targets, counting in on_all_ranks(rounds, rows):
        assert rollouts.group_size == 1
        assert counting.tolist() == list(range(len(rollouts)))
        assert targets.reference_log_probs is None
        assert targets.sampling_log_probs is None  # not those of the rollouts, which have the same name
        for place, number in enumerate(rollouts.response_ids[:, 0].tolist()):
            rank, row = number // 1000 - 1, number % 1000
            (given, given_targets), prompt = rounds[rank], row // 4
            width = given.response_ids.shape[1]
            assert rollouts.prompt_ids[place, 0] == 1000 * (rank + 1) + prompt
            assert rollouts.prompt_lengths[place] == given.prompt_lengths[prompt]
            assert rollouts.response_lengths[place] == given.response_lengths[row]
            assert rollouts.finished[place] == given.finished[row]
            assert rollouts.finished.dtype == torch.bool
            assert torch.equal(rollouts.sampling_log_probs[place, :width], given.sampling_log_probs[row])
            assert torch.equal(targets.old_log_probs[place, :width], given_targets.old_log_probs[row])  # type: ignore[index]
            for name in ("old_reading", "marks"):
                assert torch.equal(getattr(targets, name)[place, :width], getattr(given_targets, name)[row])
            assert targets.marks.dtype == torch.bool  # type: ignore[union-attr]
            reads = rollouts.reward_token_log_probs[place], given.reward_token_log_probs[row]
            assert torch.equal(*(read.nan_to_num() for read in reads))
            assert torch.equal(targets.references[place], given_targets.references[row])  # type: ignore[index]
            for name in ("advantages", "rewards", "policy_weights", "self_reward_weights", "self_reward_targets"):
                assert getattr(targets, name)[place] == getattr(given_targets, name)[row]
            seen.append(number)
    expected = [1000 * (rank + 1) + row for rank, of_rank in enumerate(rows) for row in of_rank]
    assert sorted(seen) == sorted(expected)


def test_tokens_are_even() -> None:
    rounds = [a_round(0, 4, 4, (2, 3)), a_round(1, 4, 4, (2, 60))]
    results = on_all_ranks(rounds, [list(range(16))] * 2)
    tokens = [int((rollouts.prompt_lengths + rollouts.response_lengths).sum()) for rollouts, _, _ in results]
    given = [int(r.prompt_lengths.repeat_interleave(4).sum() + r.response_lengths.sum()) for r, _ in rounds]
    assert sum(tokens) == sum(given)
    assert max(given) > 1.5 * sum(given) / 2  # as sampled, one rank has most of the work
    assert max(tokens) - min(tokens) <= 3


@pytest.mark.parametrize("empty", [0, 1])
def test_a_rank_without_a_solution_gets_one_that_does_not_count(empty: int) -> None:
    rounds = [a_round(0, 1, 2, (3, 3)), a_round(1, 1, 2, (3, 3))]
    rows = [[1], [1]]
    rows[empty] = []
    results = on_all_ranks(rounds, rows)
    assert sorted(len(counting) for _, _, counting in results) == [0, 1]
    assert all(len(rollouts) == 1 for rollouts, _, _ in results)


def of_lengths(rank: int, prompt: int, responses: list[list[int]]) -> tuple[Rollouts, Targets]:
    """A round whose groups have responses of given lengths, behind prompts of one length."""
    rollouts, targets = a_round(rank, len(responses), len(responses[0]), (prompt, 9))
    rollouts.prompt_lengths = torch.full((len(responses),), prompt)
    rollouts.response_lengths = torch.tensor(responses).flatten()
    return rollouts, targets


def solutions_of(result: Any) -> list[int]:
    rollouts, _, counting = result
    return rollouts.response_ids[counting, 0].tolist()


def test_solutions_that_share_their_prompt_stay_together() -> None:
    # Trees of 10 + 4 and 10 + 8 tokens on the first rank, 10 + 6 and 10 + 2 on the second, 60 in all: the largest, 18,
    # and the smallest, 12, go to one rank, 16 and 14 to the other.
    rounds = [of_lengths(0, 10, [[2, 2], [4, 4]]), of_lengths(1, 10, [[3, 3], [1, 1]])]
    first, second = on_all_ranks(rounds, [list(range(4))] * 2, PromptSharing())
    assert solutions_of(first) == [1002, 1003, 2002, 2003]
    assert solutions_of(second) == [1000, 1001, 2000, 2001]


def test_a_group_is_cut_where_a_rank_would_wait() -> None:
    # One group of 10 + 4 * 5 = 30 tokens: a rank's share of it is 15, a prompt with one response.
    rounds = [of_lengths(0, 10, [[5, 5, 5, 5]]), of_lengths(1, 10, [[5, 5, 5, 5]])]
    results = on_all_ranks(rounds, [list(range(4)), []], PromptSharing())
    assert [len(solutions_of(result)) for result in results] == [2, 2]
