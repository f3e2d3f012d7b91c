"""Sums over answers, worked out by hand, and exact where floating-point sums are not."""

from dataclasses import fields

import pytest
import torch

from laser_lightning.errors import UserError
from laser_lightning.metrics import Candidates, SampleGroups
from laser_lightning.metrics.votes.candidates import ONE_VOTE


def candidates(answers: list[list[int]], self_rewards: list[float] | None = None) -> Candidates:
    """Problems with a row of answers each, -1 for none."""
    flat = [answer for row in answers for answer in row]
    rows = torch.tensor(self_rewards or [0.0] * len(flat))
    sizes = torch.tensor([len(row) for row in answers])
    return Candidates(
        problems=len(answers),
        problem=torch.arange(len(answers)).repeat_interleave(sizes),
        answer_ids=torch.tensor(flat),
        self_rewards=rows,
        scores=rows[:, None],
        finished=torch.ones(len(flat), dtype=torch.bool),
    )


# The answer 5 of the first problem is another one than that of the second.
TWO = candidates([[5, -1, 7, 5], [5, 7, 7]])


def test_sums_by_hand() -> None:
    values = torch.tensor([0.25, 9.0, 0.5, -1.0, 2.0, 0.125, 0.25])
    assert TWO.sum_by_answer(values).tolist() == [-0.75, 0.0, 0.5, -0.75, 2.0, 0.375, 0.375]
    assert TWO.mean_by_answer(values).tolist() == [-0.375, 0.0, 0.5, -0.375, 2.0, 0.1875, 0.1875]
    assert TWO.sum_by_problem(values).tolist() == [8.75] * 4 + [2.375] * 3
    assert TWO.count_by_answer().tolist() == [2, 0, 1, 2, 1, 2, 2]
    assert TWO.has_answer.tolist() == [True, False, True, True, True, True, True]


def test_integers_stay_integers() -> None:
    large = torch.full((7,), 3 * ONE_VOTE)  # 2^40 is what one vote is, and no float32 tells it from the next integer
    large[0] += 1
    one, two = 3 * ONE_VOTE, 6 * ONE_VOTE
    assert TWO.sum_by_answer(large).tolist() == [two + 1, 0, one, two + 1, one, two, two]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [2, 1, 0, 5, 4, 3], [1, 2, 0, 4, 3, 5]])
def test_equal_votes_tie_in_any_order(order: list[int]) -> None:
    # In floats (0.1 + 0.7) + 0.2 and (0.2 + 0.7) + 0.1 differ, and so do the two answers' sums of the same numbers.
    scores = torch.tensor([0.1, 0.7, 0.2, 0.2, 0.7, 0.1], dtype=torch.float64)[order]
    one = candidates([[1, 1, 1, 2, 2, 2]])
    sums = one.sum_by_answer(scores)
    assert len(set(sums.tolist())) == 1
    # The mean of three equal scores is that of one.
    three = candidates([[1, 1, 1, 2]])
    assert len(set(three.mean_by_answer(torch.full((4,), 0.1)).tolist())) == 1


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 1024.0])
def test_what_cannot_be_summed_exactly_is_refused(value: float) -> None:
    values = torch.zeros(7)
    values[3] = value
    for add in (TWO.sum_by_answer, TWO.mean_by_answer, TWO.sum_by_problem):
        with pytest.raises(UserError, match="from values between -1024 and 1024, and one is not: clamp them"):
            add(values)


def test_groups_without_what_the_verifier_says() -> None:
    groups = SampleGroups.regroup(
        problem_ids=torch.tensor([9, 3, 9]),
        sample_indices=torch.tensor([1, 0, 0]),
        rewards=torch.tensor([1.0, 0.0, 0.0]),
        answer_ids=torch.tensor([5, 6, -1]),
        self_rewards=torch.tensor([0.5, 0.25, 2.0]),
        finished=torch.tensor([True, False, True]),
    )
    found = Candidates.of(groups)
    assert not {"rewards", "correct"} & {field.name for field in fields(found)}
    assert found.problems == 2
    assert found.problem.tolist() == [0, 1, 1]
    assert found.answer_ids.tolist() == [6, -1, 5]
    assert found.self_rewards.tolist() == [0.25, 2.0, 0.5]
    assert found.scores.tolist() == [[0.25], [2.0], [0.5]]
    assert found.finished.tolist() == [False, True, True]
