"""AUROC within problems, by hand and against a loop over all pairs; two processes are in ``test_distributed``."""

import math
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from laser_lightning.metrics import SelfVerification, WithinProblems, pair_counts

NAMES = ["auroc_within", "auroc_within_mean", "mixed_problems"]


def _update(metric: WithinProblems, groups: dict[int, list[tuple[float, float]]], kinds: dict[int, int]) -> None:
    """Add solutions (self-reward, reward) by problem id."""
    rows = [(problem, place, *one) for problem, group in groups.items() for place, one in enumerate(group)]
    problems, places, scores, rewards = zip(*rows, strict=True)
    metric.update(
        torch.tensor(problems),
        torch.tensor(places),
        torch.tensor(scores),
        torch.tensor(rewards),
        torch.tensor([kinds[problem] for problem in problems]) if kinds else None,
    )


def _computed(groups: dict[int, list[tuple[float, float]]]) -> dict[str, float]:
    metric = WithinProblems()
    _update(metric, groups, {})
    return {name: value.item() for name, value in metric.compute().items()}


def test_values_by_hand() -> None:
    # Problem 7: 0.9 and 0.4 are right, 0.4 and 0.6 wrong: 0.9 wins twice, 0.4 ties once and loses once: 2.5 of 4.
    # Problem 2: 0.1 is right, -3 wrong: 1 of 1. Problem 5 has no wrong one.
    # All pairs: 3.5 / 5. The mean over the problems: (0.625 + 1) / 2.
    values = _computed({7: [(0.9, 1), (0.6, 0), (0.4, 1), (0.4, 0)], 5: [(0.2, 1), (0.3, 1)], 2: [(-3, 0), (0.1, 0.6)]})
    assert list(values) == NAMES
    assert values["auroc_within"] == pytest.approx(0.7, abs=1e-7)
    assert values["auroc_within_mean"] == 0.8125
    assert values["mixed_problems"] == 2


def test_a_score_of_the_problem_alone_is_chance() -> None:
    # The easy problem has 3 of 4 right and scores 0.9, the hard one 1 of 4 and scores 0.1.
    groups = {0: [(0.9, 1), (0.9, 1), (0.9, 0), (0.9, 1)], 1: [(0.1, 0), (0.1, 1), (0.1, 0), (0.1, 0)]}
    over_all = SelfVerification()
    scores, rewards = zip(*groups[0], *groups[1], strict=True)
    over_all.update(torch.tensor(scores), torch.tensor(rewards))
    # Pairs: 3 of the right ones beat 3 wrong ones, 1 loses to 1, the other 3 + 3 tie: (9 + 3) / 16.
    assert over_all.compute()["auroc"] == 0.75
    assert _computed(groups) == {"auroc_within": 0.5, "auroc_within_mean": 0.5, "mixed_problems": 2}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_a_mixed_problem_it_is_undefined() -> None:
    # Over all solutions both classes are there, but never in one problem.
    values = _computed({0: [(0.9, 1), (0.8, 1)], 1: [(0.1, 0), (0.2, 0)]})
    assert math.isnan(values["auroc_within"])
    assert math.isnan(values["auroc_within_mean"])
    assert values["mixed_problems"] == 0
    nothing = WithinProblems(["a"]).compute()
    assert all(nothing[name].isnan() for name in ("auroc_within", "auroc_within_mean", "auroc_within/a"))
    assert nothing["mixed_problems"] == nothing["mixed_problems/a"] == 0


def test_kinds_by_hand() -> None:
    metric = WithinProblems(["sum", "product", "none"])
    groups = {0: [(0.9, 1), (0.1, 0)], 1: [(0.1, 1), (0.9, 0)], 2: [(0.5, 1), (0.5, 0)]}
    _update(metric, groups, {0: 0, 1: 1, 2: 0})
    values = {name: value.item() for name, value in metric.compute().items()}
    assert list(values) == [*NAMES, *(f"{name}/{kind}" for kind in metric.kinds for name in NAMES)]
    assert (values["auroc_within"], values["auroc_within/sum"], values["auroc_within/product"]) == (0.5, 0.75, 0)
    assert (values["mixed_problems/sum"], values["mixed_problems/product"], values["mixed_problems/none"]) == (2, 1, 0)
    assert math.isnan(values["auroc_within/none"])


def _slow(rows: list[tuple[int, int, float, bool]]) -> dict[str, float]:
    """Rows: problem, sample index, score, correct."""
    wins, pairs = defaultdict(float), defaultdict(int)  # type: ignore[var-annotated]
    for problem, _, score, correct in rows:
        for other, _, other_score, other_correct in rows:
            if problem == other and correct and not other_correct:
                pairs[problem] += 1
                wins[problem] += 1 if score > other_score else 0.5 if score == other_score else 0
    return {
        "auroc_within": sum(wins.values()) / sum(pairs.values()),
        "auroc_within_mean": sum(wins[problem] / pairs[problem] for problem in pairs) / len(pairs),
        "mixed_problems": len(pairs),
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_values_equal_the_loop_over_pairs(random_rows: Callable[..., dict[str, Tensor]], seed: int) -> None:
    rows = random_rows(seed=seed)
    columns = (rows["problem_ids"], rows["sample_indices"], rows["self_rewards"], rows["rewards"])
    whole, parts = WithinProblems(), WithinProblems()
    whole.update(*columns)
    for part in torch.arange(len(columns[0])).flip(0).split(7):  # another order, problems across parts
        parts.update(*(column[part] for column in columns))
    parts.update(*(column[:20] for column in columns))  # rows that a DistributedSampler repeats
    table = zip(*(column.tolist() for column in columns[:3]), (columns[3] > 0.5).tolist(), strict=True)
    found = {name: value.item() for name, value in whole.compute().items()}
    assert found == pytest.approx(_slow(list(table)), abs=1e-6)
    assert found == {name: value.item() for name, value in parts.compute().items()}


def test_infinite_scores_and_both_zeros() -> None:
    scores = torch.tensor([torch.inf, torch.inf, -torch.inf, 0.0, -0.0])
    correct = torch.tensor([True, False, False, True, False])
    counts = pair_counts(torch.tensor([0, 0, 0, 1, 1]), scores, correct, 3)
    assert (counts.half_wins.tolist(), counts.pairs.tolist()) == ([1 + 2, 1, 0], [2, 1, 0])


@pytest.mark.against_signatures
def test_refusals() -> None:
    ids, column = torch.tensor([0, 1]), torch.tensor([0.0, 1.0])
    for metric, kind_ids in ((WithinProblems(), ids), (WithinProblems(["a"]), None)):
        with pytest.raises(ValueError, match=r"give kind_ids to update if there are any"):
            metric.update(ids, ids, column, column, kind_ids)
    with pytest.raises(ValueError, match=r"kind id 1 is not in 0\.\.0"):
        WithinProblems(["a"]).update(ids, ids, column, column, ids)
    with pytest.raises(ValueError, match="NaN in self_rewards at position 0"):
        WithinProblems().update(ids, ids, column * torch.nan, column)
    with pytest.raises(ValueError, match="integers in problem_ids"):
        WithinProblems().update(column, ids, column, column)
    with pytest.raises(ValueError, match="each only once"):
        WithinProblems(["a", "a"])
