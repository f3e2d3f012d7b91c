"""Rules that learn from training rounds: what they learn, by hand; their memory; and the file beside an export."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning.errors import UserError
from laser_lightning.metrics import SampleGroups
from laser_lightning.metrics.votes import (
    BestRule,
    CalibratedVote,
    LogOddsVote,
    Majority,
    MeanScoreVote,
    VoteRule,
    WeightedMajority,
)
from laser_lightning.metrics.votes.accuracy import problem_accuracy
from laser_lightning.metrics.votes.saved import VOTES_FILE, load_rules, save_rules

Solution = tuple[int, float, bool]  # answer, score, whether it is correct


def round_of(problems: dict[int, list[Solution]]) -> SampleGroups:
    """A training round: solutions by the row number of their problem."""
    rows = [(number, place, *one) for number, own in problems.items() for place, one in enumerate(own)]
    ids, samples, answers, scores, correct = zip(*rows, strict=True)
    return SampleGroups.regroup(
        problem_ids=torch.tensor(ids),
        sample_indices=torch.tensor(samples),
        rewards=torch.tensor(correct).float(),
        answer_ids=torch.tensor(answers),
        self_rewards=torch.tensor(scores),
    )


# Of the even problem: 0.25 is wrong, 0.5 right, 0.75 wrong, 1.0 right; -1 has no answer. So 0.5 and 0.75 pool to 1/2.
EVEN: list[Solution] = [(1, 0.25, False), (2, 0.5, True), (3, 0.75, False), (2, 1.0, True), (-1, 0.125, False)]
CURVE = [(0.25, 0.0), (0.5, 0.5), (0.75, 0.5), (1.0, 1.0)]
# In the odd one the majority is wrong, and the mean score right: 7 has 0.5 and 0.5, 8 has 0.75. Weighted, 7 has 1.
ODD: list[Solution] = [(7, 0.5, False), (7, 0.5, False), (8, 0.75, True)]


def test_a_curve_is_fitted_to_the_last_rounds() -> None:
    rule = CalibratedVote(rounds=2)
    assert rule.curve == [(0.0, 0.0), (1.0, 1.0)]
    assert rule.lacks == "has no training round to calibrate scores with"
    rule.learn(round_of({0: [(1, 0.0, True)]}))
    assert rule.curve == [(0.0, 1.0)]
    rule.learn(round_of({0: EVEN[:2]}))
    rule.learn(round_of({4: EVEN[2:]}))  # the first round is forgotten
    assert rule.curve == CURVE
    assert rule.lacks is None


def test_a_round_without_answers_teaches_nothing() -> None:
    rule = CalibratedVote()
    rule.learn(round_of({0: [(-1, 0.5, False)], 1: [(3, -math.inf, False)]}))
    assert rule.curve == [(0.0, 0.0), (1.0, 1.0)]
    assert rule.lacks == "has no answer with a finite score in its training rounds to calibrate scores with"
    rule.learn(round_of({2: EVEN}))
    assert rule.lacks is None


@pytest.mark.parametrize(
    "problems",
    [
        {0: EVEN},  # even problems compare nothing
        {0: EVEN, 1: [(-1, 0.5, False)]},
    ],
)
def test_without_an_answer_to_compare_on_no_rule_is_the_best(problems: dict[int, list[Solution]]) -> None:
    rule = BestRule()
    rule.learn(round_of(problems))
    assert rule.lacks == "has no answer to a problem with an odd row number in its training rounds to choose a rule by"
    assert isinstance(rule.best, WeightedMajority)  # the first
    rule.learn(round_of({3: ODD}))
    assert rule.lacks is None


def test_a_rule_that_learned_nothing_is_compared_in_vain() -> None:
    rule = BestRule()
    rule.learn(round_of({1: ODD}))  # odd problems teach nothing
    assert rule.lacks == (
        "chooses among rules of which 'calibrated' has no answer with a finite score in its training rounds to "
        "calibrate scores with"
    )
    rule.learn(round_of({2: EVEN}))
    assert rule.lacks is None


def test_the_best_rule_by_hand() -> None:
    rule = BestRule([WeightedMajority(), Majority(), MeanScoreVote()])
    assert isinstance(rule.best, WeightedMajority)
    assert rule.lacks == "has no training round to choose a rule by"
    rule.learn(round_of({0: EVEN, 1: ODD}))
    assert rule.accuracies() == [0.0, 0.0, 1.0]
    assert isinstance(rule.best, MeanScoreVote)
    # Two problems for the majority, 7 and 8 weigh 0.5 and 0.25 there, and in the mean 0.25 and 0.25: half right.
    right: list[Solution] = [(7, 0.25, True), (7, 0.25, True), (8, 0.25, False)]
    rule.learn(round_of({3: right, 5: right}))
    assert rule.accuracies() == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert isinstance(rule.best, WeightedMajority)  # of equally good ones the first


def test_what_teaches_does_not_compare() -> None:
    rule = BestRule([Majority(), CalibratedVote()])
    groups = round_of({0: EVEN, 1: ODD, 2: EVEN, 3: ODD})
    rule.learn(groups)
    (_, calibrated) = rule.rules
    assert isinstance(calibrated, CalibratedVote)
    assert calibrated.curve == CURVE  # of the even problems alone
    compared = groups.select(torch.tensor([False, True, False, True]))
    assert compared.problem_ids.tolist() == [1, 3]
    assert rule.accuracies() == [float(problem_accuracy(one, compared).mean()) for one in rule.rules]


def test_rules_are_the_best_rules_own() -> None:
    given = CalibratedVote()
    one, other = BestRule([given]), BestRule([given])
    one.learn(round_of({0: EVEN, 1: ODD}))
    assert given.lacks is not None
    assert other.rules[0].lacks is not None
    # Those of the default are shared no more than others.
    first = BestRule()
    first.learn(round_of({0: EVEN, 1: ODD}))
    assert BestRule().rules[-1].lacks is not None


def same(ours: Any, theirs: Any) -> bool:
    """Whether two states are equal, bit for bit."""
    if isinstance(ours, torch.Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


def test_memory_goes_on_where_it_was(tmp_path: Path) -> None:
    def fresh() -> list[VoteRule]:
        return [CalibratedVote(rounds=2), BestRule([Majority(), MeanScoreVote(), CalibratedVote()], rounds=2)]

    ours, theirs = fresh(), fresh()
    for rule in ours:
        rule.learn(round_of({0: EVEN, 1: ODD}))
    torch.save([rule.state_dict() for rule in ours], tmp_path / "state.pt")
    for rule, state in zip(theirs, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        rule.load_state_dict(state)
    for later in ({2: EVEN[1:], 3: ODD}, {4: EVEN[::2], 7: ODD[:2]}):
        for rule in (*ours, *theirs):
            rule.learn(round_of(later))
        assert all(same(one.state_dict(), other.state_dict()) for one, other in zip(ours, theirs, strict=True))
        assert ours[0].curve == theirs[0].curve  # type: ignore[attr-defined]
        assert type(ours[1].best) is type(theirs[1].best)  # type: ignore[attr-defined]
    assert len(ours[0].state_dict()["rounds"]) == 2
    theirs[1].load_state_dict({})
    assert theirs[1].lacks is not None


def test_a_settled_rule_decides_as_the_one_that_learned(tmp_path: Path) -> None:
    learned: list[VoteRule] = [CalibratedVote(limit=3.0), BestRule([Majority(), CalibratedVote()]), LogOddsVote(2.0)]
    groups = round_of({0: EVEN, 1: ODD, 2: EVEN[::-1], 3: ODD})
    for rule in learned[:2]:
        rule.learn(groups)
    assert save_rules(learned, tmp_path) == []
    loaded = load_rules(tmp_path)
    assert list(loaded) == ["calibrated", "best_rule", "log_odds"]
    for rule in learned:
        assert torch.equal(problem_accuracy(loaded[rule.name], groups), problem_accuracy(rule, groups))
        assert not loaded[rule.name].learns
    assert loaded["calibrated"].curve == learned[0].curve  # type: ignore[attr-defined]
    assert type(loaded["best_rule"]) is type(learned[1].best)  # type: ignore[attr-defined]
    assert loaded["log_odds"].limit == 2.0  # type: ignore[attr-defined]


def test_rules_without_a_plain_form_are_left_out(tmp_path: Path) -> None:
    class Local(Majority):
        name = "local"

    assert load_rules(tmp_path) == {}
    assert save_rules([], tmp_path) == []
    assert not (tmp_path / VOTES_FILE).exists()
    assert save_rules([Local(), LogOddsVote()], tmp_path) == ["local"]
    assert list(load_rules(tmp_path)) == ["log_odds"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"votes\.json is damaged .*: export the model again, or delete the file"),
        ('{"format_version": 1}', "is damaged"),
        ('{"format_version": 2, "rules": {}}', "is of format version 2, and this release reads 1"),
        (
            json.dumps({"format_version": 1, "rules": {"a": {"class_path": "gone.Rule", "init_args": {}}}}),
            r"gone\.Rule, which cannot be imported",
        ),
        (json.dumps({"format_version": 1, "rules": {"a": 3}}), "names as 'a' what is no vote rule"),
    ],
)
def test_damaged_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / VOTES_FILE).write_text(content)
    with pytest.raises(UserError, match=message):
        load_rules(tmp_path)
