"""Who wins by given standings, what is refused, and rules with several scores of a solution."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.metrics import Candidates, Majority, MajorityVote, VoteAccuracy, VoteRule, answer_ids
from laser_lightning.metrics.votes import FIXED_RULES


class Given(VoteRule):
    """A rule whose standings are written down."""

    def __init__(
        self, standings: Tensor | None = None, chooses: Literal["answer", "solution"] = "answer", name: Any = "given"
    ) -> None:
        self.given, self.chooses, self.name = standings, chooses, name

    def standings(self, candidates: Candidates) -> Tensor:
        assert self.given is not None
        return self.given


def candidates(*answers: int) -> Candidates:
    """Solutions of one problem but for the last one, which is of another."""
    size = len(answers)
    scores = torch.zeros(size)
    problem = torch.zeros(size, dtype=torch.int64)
    problem[-1] = 1
    return Candidates(2, problem, torch.tensor(answers), scores, scores[:, None], torch.ones(size, dtype=torch.bool))


CASES = {
    # The answer of the solution that stands highest, with all that gave it; what has no answer does not count.
    "answer": ([5, 5, 6, -1, 7], [1.0, 3.0, 2.0, 9.0, -9.0], "answer", [1, 1, 0, 0, 1]),
    "solution": ([5, 5, 6, -1, 7], [1.0, 3.0, 2.0, 9.0, -9.0], "solution", [0, 0, 0, 1, 1]),
    "tied answers": ([5, 5, 6, 4, 7], [1.0, 3.0, 3.0, 0.0, 0.0], "answer", [1, 1, 1, 0, 1]),
    "tied solutions": ([5, 5, 6, 4, 7], [1.0, 3.0, 3.0, 0.0, 0.0], "solution", [0, 1, 1, 0, 1]),
    "negative": ([5, 5, 6, 4, 7], [-4.0, -3.0, -2.0, -2.5, -9.0], "answer", [0, 0, 1, 0, 1]),
    "all at the bottom": ([5, 6, -1, 4, 7], [-torch.inf] * 5, "answer", [1, 1, 0, 1, 1]),
    "no answer": ([-1, -1, -1, -1, 7], [1.0, 2.0, 3.0, 4.0, 5.0], "answer", [0, 0, 0, 0, 1]),
    "integers": ([5, 5, 6, 4, 7], [-(2**62), 2**62, 2**62 + 1, 0, -1], "answer", [0, 0, 1, 0, 1]),
    "booleans": ([5, 5, 6, 4, 7], [True, False, False, True, False], "answer", [1, 1, 0, 1, 1]),
}


@pytest.mark.parametrize("name", CASES)
def test_winners_by_hand(name: str) -> None:
    answers, standings, chooses, expected = CASES[name]
    rule = Given(torch.tensor(standings), chooses)  # type: ignore[arg-type]
    assert rule.winners(candidates(*answers)).long().tolist() == expected


def test_the_fixed_rules() -> None:
    assert [rule.name for rule in FIXED_RULES] == ["maj", "weighted_maj", "best_of"]


@pytest.mark.parametrize(
    ("standings", "message"),
    [
        (
            torch.zeros(2),
            r"'given' \(Given\) gave standings of shape \[2\] to 3 solutions: give one real number to each",
        ),
        (torch.zeros(3, 1), r"of shape \[3, 1\]"),
        (torch.zeros(3, dtype=torch.complex64), "one real number"),
        (torch.tensor([0.0, torch.nan, 1.0]), "gave a solution NaN as its standing: give one that shall not win -inf"),
    ],
)
def test_wrong_standings_are_refused(standings: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Given(standings).winners(candidates(5, 6, 7))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([Given(name="maj")], r"votes\[0\] \(Given\) has the name 'maj', which is that of Majority, which is always"),
        ([Given(name="pass")], "which is that of the metric pass@k: give it a `name` of its own"),
        (
            [Given(name="a"), Given(name="a")],
            r"votes\[1\] \(Given\) has the name 'a', which is that of evaluation.votes\[0",
        ),
        ([Given(name="a/b")], "the name 'a/b', which no metric can bear: set its `name` to letters, digits, _ and -"),
        ([Given(name="a@2")], "no metric can bear"),
        ([Given(name="")], "no metric can bear"),
        ([Given(name=None)], "the name None, which no metric can bear"),
        ([Given(name="a", chooses="nothing")], "has chooses = 'nothing', and must choose an answer or a solution"),
        ([Majority], r"votes\[0\] is <class '.*Majority'>, and must be a VoteRule"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(rules: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EvaluationSettings(votes=rules)


@pytest.fixture
def mean_of_scores(monkeypatch: pytest.MonkeyPatch) -> VoteRule:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    from vote_rules import MeanOfScores  # type: ignore[import-not-found]

    return MeanOfScores()


NAN = torch.nan


def rows(**changes: Any) -> dict[str, Tensor]:
    """Solutions of one problem: 4, 4, 5, 5, of which 5 is right, and their verdicts."""
    given: dict[str, Any] = {
        "problem_ids": torch.zeros(4, dtype=torch.int64),
        "sample_indices": torch.arange(4),
        "rewards": torch.tensor([0.0, 0.0, 1.0, 1.0]),
        "answer_ids": answer_ids(["4", "4", "5", "5"]),
        "self_rewards": torch.tensor([0.5, 0.5, 0.5, 0.5]),
        "finished": torch.tensor([True, True, True, True]),
        # 4: (0.75 + 0.5) / 2 = 0.625. 5: (1 + 0) / 2 = 0.5, the last solution without any verdict.
        "scores": torch.tensor([[1.0, 0.5], [0.5, NAN], [1.0, 1.0], [NAN, NAN]]),
    }
    return given | changes


def test_several_scores_of_a_solution_by_hand(mean_of_scores: VoteRule) -> None:
    def value(**changes: Any) -> float:
        metric = VoteAccuracy(mean_of_scores)
        metric.update(**rows(**changes))
        return metric.compute().item()

    assert value() == 0.0
    # The first solution was cut: 4 has (0 + 0.5) / 2.
    assert value(finished=torch.tensor([False, True, True, True])) == 1.0
    # Without scores of their own r_s is the only one: they tie.
    assert value(scores=None) == 0.5
    # In any order of the rows.
    metric, order = VoteAccuracy(mean_of_scores), torch.tensor([2, 0, 3, 1])
    metric.update(**{name: column[order] for name, column in rows().items()})
    assert metric.compute().item() == 0.0


@pytest.mark.against_signatures
def test_scores_that_do_not_fit_are_refused() -> None:
    metric = MajorityVote()
    with pytest.raises(ValueError, match=r"needs scores \[N, S\] of 4 solutions, but got \[4\]"):
        metric.update(**rows(scores=torch.zeros(4)))
    metric = MajorityVote()
    metric.update(**rows())
    metric.update(**rows(scores=torch.zeros(4, 3)))
    with pytest.raises(ValueError, match="has 20 scores of 8 solutions, of which one has 3: give all the same number"):
        metric.compute()
    metric = MajorityVote()
    metric.update(**rows())
    metric.update(**rows(scores=None))
    with pytest.raises(ValueError, match="has 8 scores of 8 solutions, of which one has 2"):
        metric.compute()
