from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from laser_lightning.metrics import BestOfK, GroupMetric, MajorityVote, WeightedMajorityVote, answer_ids

Solution = tuple[str | None, float, float]  # answer, reward, self-reward


def _value(metric: GroupMetric, *solutions: Solution) -> float:
    answers, rewards, self_rewards = zip(*solutions, strict=True)
    metric.update(
        problem_ids=torch.zeros(len(solutions), dtype=torch.int64),
        sample_indices=torch.arange(len(solutions)),
        rewards=torch.tensor(rewards),
        answer_ids=answer_ids(answers),
        self_rewards=torch.tensor(self_rewards),
    )
    return metric.compute().item()


# Three votes for 4 (wrong), two for 5 (right) that weigh more: 0.1 + 0.2 + 0 against 0.9 + 1.
FIVE: list[Solution] = [("4", 0, 0.1), ("4", 0, 0.2), ("5", 1, 0.9), ("4", 0, -3.0), ("5", 1, 7.0)]


def test_majority_and_weighted_majority_by_hand() -> None:
    assert _value(MajorityVote(), *FIVE) == 0.0
    assert _value(WeightedMajorityVote(), *FIVE) == 1.0


def test_weights_are_clamped() -> None:
    # Clamped, 7 counts as 1 < 0.6 + 0.6, and -9 as 0, so the wrong answer wins.
    solutions: list[Solution] = [("5", 1, 7.0), ("4", 0, 0.6), ("4", 0, 0.6), ("4", 0, -9.0)]
    assert _value(WeightedMajorityVote(), *solutions) == 0.0


def test_first_k_by_sample_index() -> None:
    assert _value(MajorityVote(3), *FIVE) == 0.0  # 4, 4, 5
    assert _value(WeightedMajorityVote(2), *FIVE) == 0.0  # 4, 4
    assert _value(BestOfK(2), *FIVE) == 0.0
    assert _value(BestOfK(3), *FIVE) == 1.0


def test_tied_answers_count_as_their_mean() -> None:
    # 4 (wrong), 5 (right) and 6 (wrong) have two votes each, 7 has one: (0 + 1 + 0) / 3.
    solutions: list[Solution] = [
        *[("4", 0, 0.5), ("5", 1, 0.5), ("6", 0, 0.5), ("7", 1, 0.5)],
        *[("6", 0, 0.5), ("5", 1, 0.5), ("4", 0, 0.5)],
    ]
    assert _value(MajorityVote(), *solutions) == pytest.approx(1 / 3)
    assert _value(WeightedMajorityVote(), *solutions) == pytest.approx(1 / 3)


def test_a_class_is_as_correct_as_the_mean_of_its_members() -> None:
    # The verifier failed on one of two equal answers. Rewards above 0.5 are correct.
    assert _value(MajorityVote(), ("5", 0.6, 0.0), ("5", 0.0, 0.0), ("4", 1.0, 0.0)) == 0.5


def test_no_answer_has_no_vote() -> None:
    solutions: list[Solution] = [(None, 0, 1.0), (None, 0, 1.0), ("5", 1, 0.1)]
    assert _value(MajorityVote(), *solutions) == 1.0
    assert _value(WeightedMajorityVote(), *solutions) == 1.0
    assert _value(BestOfK(), *solutions) == 1.0


def test_the_best_solution_has_an_answer_where_there_is_one() -> None:
    # Of those with an answer 0.3 is the highest; below every number there is still one with an answer.
    assert _value(BestOfK(), (None, 0, 9.0), ("4", 0, 0.1), ("5", 1, 0.3), (None, 0, 0.3)) == 1.0
    assert _value(BestOfK(), (None, 0, -torch.inf), ("5", 1, -torch.inf), (None, 0, 2.0)) == 1.0
    # Where there is none the scores decide, as the verifier may know right from wrong without an answer.
    assert _value(BestOfK(), (None, 0, 0.1), (None, 1, 0.3)) == 1.0


def test_a_problem_without_any_answer_is_incorrect() -> None:
    # Even with a reward that says otherwise: there is nothing to vote for.
    solutions: list[Solution] = [(None, 1, 1.0), (None, 1, 0.5)]
    assert _value(MajorityVote(), *solutions) == 0.0
    assert _value(WeightedMajorityVote(), *solutions) == 0.0


def test_without_positive_weights_the_plain_majority_decides() -> None:
    assert _value(WeightedMajorityVote(), ("4", 0, 0.0), ("5", 1, -1.0), ("5", 1, -2.0)) == 1.0
    # A solution without an answer has weight, but no vote: it is no evidence for an answer either.
    assert _value(WeightedMajorityVote(), (None, 0, 1.0), ("4", 0, 0.0), ("5", 1, -1.0), ("5", 1, 0.0)) == 1.0
    # With the least evidence the weights decide.
    assert _value(WeightedMajorityVote(), ("4", 0, 1e-6), ("5", 1, -1.0), ("5", 1, 0.0)) == 0.0


def test_best_of_k_by_hand() -> None:
    assert _value(BestOfK(), *FIVE) == 1.0
    # Not clamped: 7 beats 3. Two share the highest score, one of them is right.
    assert _value(BestOfK(), ("1", 1, 3.0), ("2", 0, 7.0), ("3", 1, 7.0)) == 0.5
    assert _value(BestOfK(), ("1", 1, -torch.inf), ("2", 0, -torch.inf)) == 0.5


def _slow_vote(rows: list[tuple[int, bool, int, float]], weighted: bool) -> float:
    """Rows of one problem: sample index, correct, answer id, self-reward."""
    members: dict[int, list[tuple[bool, float]]] = defaultdict(list)
    for _, correct, answer, score in rows:
        if answer != -1:
            members[answer].append((correct, min(max(score, 0.0), 1.0)))
    if not members:
        return 0.0
    if not weighted or all(weight == 0 for group in members.values() for _, weight in group):
        members = {answer: [(correct, 1.0) for correct, _ in group] for answer, group in members.items()}
    votes = {answer: sum(weight for _, weight in group) for answer, group in members.items()}
    tied = [group for answer, group in members.items() if votes[answer] == max(votes.values())]
    return sum(sum(correct for correct, _ in group) / len(group) for group in tied) / len(tied)


def _slow_best(rows: list[tuple[int, bool, int, float]]) -> float:
    allowed = [row for row in rows if row[2] != -1] or rows
    highest = max(score for *_, score in allowed)
    best = [correct for _, correct, _, score in allowed if score == highest]
    return sum(best) / len(best)


@pytest.mark.parametrize("k", [None, 1, 2, 5, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_values_equal_the_slow_twins(random_rows: Callable[..., dict[str, Tensor]], seed: int, k: int | None) -> None:
    rows = random_rows(seed=seed)
    problems: dict[int, list[tuple[int, bool, int, float]]] = defaultdict(list)
    for problem, sample, reward, answer, score in zip(*(rows[name].tolist() for name in rows), strict=True):
        problems[problem].append((sample, reward > 0.5, answer, score))
    groups = [sorted(problems[problem])[:k] for problem in sorted(problems)]

    expected = {
        "majority": [_slow_vote(group, weighted=False) for group in groups],
        "weighted": [_slow_vote(group, weighted=True) for group in groups],
        "best": [_slow_best(group) for group in groups],
    }
    metrics = {"majority": MajorityVote(k), "weighted": WeightedMajorityVote(k), "best": BestOfK(k)}
    for name, metric in metrics.items():
        metric.update(**rows)
        assert metric.per_problem()[1].tolist() == pytest.approx(expected[name], abs=1e-6)
