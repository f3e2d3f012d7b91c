"""Evaluation metrics fed from rounds."""

from pathlib import Path
from typing import Any

import pytest
import torch

from laser_lightning.arguments import made_from, plain_form
from laser_lightning.data.problem import Problem
from laser_lightning.evaluation.metrics import EvaluationMetrics, MetricsOfSets
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.metrics import VoteAccuracy
from laser_lightning.records.batching import Rollouts
from laser_lightning.records.rollout import Rollout
from laser_lightning.verifiers import Verification


def compare_numbers(pairs: object) -> list[bool]:
    return [float(one) == float(other) for one, other in pairs]  # type: ignore[attr-defined]


def round_of(rewards: list[float], self_rewards: list[float], answers: list[str | None]) -> Rollout:
    size = len(rewards)
    zeros = torch.zeros(size, 1, dtype=torch.long)
    rollouts = Rollouts(
        zeros[:2],
        torch.ones(2).long(),
        zeros,
        torch.arange(size),
        torch.ones(size).bool(),
        zeros.float(),
        torch.zeros(size),
    )
    problems = [Problem("set", row, "", "", [1], "", kind) for row, kind in enumerate(["easy", "hard"])]
    verifications = [Verification(r, a) for r, a in zip(rewards, answers, strict=True)]
    return Rollout(
        problems,
        rollouts,
        [""] * size,
        verifications,
        torch.tensor(rewards),
        None,
        torch.tensor(self_rewards),
        seconds=1.5,
    )


def test_values_by_hand() -> None:
    # Problem 0: answers 4, 4.0, 5, 7: with the verifier's equivalence two votes for 4 (correct), one each for 5 and 7.
    # Problem 1: answers 1, 1, 1, 2, and only 2 is correct, with the highest score.
    rollout = round_of(
        [1, 1, 0, 0, 0, 0, 0, 1], [0.2, 0.1, 0.9, 0.0, 0.1, 0.1, 0.1, 0.8], ["4", "4.0", "5", "7", "1", "1", "1", "2"]
    )
    metrics = EvaluationMetrics(4, ["easy", "hard"])
    metrics.update(rollout, compare_numbers)
    values = {name: float(value) for name, value in metrics.compute().items()}
    assert values["pass@1"] == (0.5 + 0.25) / 2
    assert values["pass@4"] == 1.0
    assert values["maj@4"] == 0.5  # problem 0 right (2 votes), problem 1 wrong (3 votes for 1)
    # Weights: problem 0: 4 -> 0.3, 5 -> 0.9: wrong. Problem 1: 1 -> 0.3, 2 -> 0.8: right.
    assert values["weighted_maj@4"] == 0.5
    assert values["best_of@4"] == 0.5
    assert values["pass@1/easy"] == 0.5
    assert values["pass@1/hard"] == 0.25
    # Verdicts: 1 of 3 correct ones accepted (0.8), 4 of 5 incorrect ones rejected: F1 = 2 * 1/3 * 4/5 / (1/3 + 4/5).
    assert abs(values["self_verification/f1"] - 8 / 17) < 1e-6
    # Pairs: in problem 0 both correct ones beat 0.0 and lose to 0.9, in problem 1 the correct one wins all three.
    assert values["self_verification/auroc_within"] == pytest.approx(5 / 7, abs=1e-6)
    assert values["self_verification/auroc_within_mean"] == 0.75
    assert values["self_verification/mixed_problems"] == 2
    assert values["self_verification/auroc_within/easy"] == values["self_verification/auroc_within_mean/easy"] == 0.5
    assert values["self_verification/auroc_within/hard"] == values["self_verification/mixed_problems/hard"] == 1
    # Squared errors: 0.64, 0.81, 0.81 and 0 of the easy problem, three times 0.01 and 0.04 of the hard one.
    assert values["self_verification/brier"] == pytest.approx(2.33 / 8, abs=1e-6)
    assert values["self_verification/brier/easy"] == pytest.approx(2.26 / 4, abs=1e-6)
    assert values["self_verification/brier/hard"] == pytest.approx(0.07 / 4, abs=1e-6)
    assert values["response/length_tokens"] == 3.5
    assert values["response/tokens"] == 28  # 0 + 1 + ... + 7
    assert values["reward"] == 3 / 8
    assert values["seconds"] == 1.5
    assert metrics.sample_groups().problem_ids.tolist() == [0, 1]

    metrics.reset()
    metrics.update(rollout, None)  # by strings alone all of problem 0's answers differ: four classes tie
    assert float(metrics.compute()["maj@4"]) == 0.25  # (2 of 4 classes correct + 0) / 2


def test_a_rule_beside_the_others_sees_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "metrics")
    from vote_rules import MeanOfScores  # type: ignore[import-not-found]

    rollout = round_of([1, 0, 0, 1, 0, 0], [0.5] * 6, ["4", "5", "5", "1", "2", "2"])
    metrics = EvaluationMetrics(3, [], votes=[MeanOfScores("own")])
    metrics.update(rollout, None)
    assert float(metrics.compute()["own@3"]) == 0.5  # r_s alone: the means tie
    metrics.reset()
    # Problem 0: 1 against (0.5 + 0.5) / 2: right. Problem 1: 0.25 against (1 + 0) / 2: wrong.
    nan = torch.nan
    rollout.scores = torch.tensor([[1.0, nan], [1.0, 0.0], [0.5, nan], [0.5, 0.0], [1.0, 1.0], [0.0, 0.0]])
    metrics.update(rollout, None)
    assert float(metrics.compute()["own@3"]) == 0.5
    assert metrics.sample_groups().scores.isnan().sum() == 2
    metrics.reset()
    rollout.rollouts.finished[4] = False  # now 0.25 against (0 + 0) / 2
    metrics.update(rollout, None)
    assert float(metrics.compute()["own@3"]) == 1.0
    assert "own@1" not in EvaluationMetrics(1, [], votes=[MeanOfScores("own")]).groups


def test_rules_have_a_plain_form_for_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "metrics")
    from vote_rules import MeanOfScores  # type: ignore[import-not-found]

    plain = plain_form(EvaluationSettings(samples=3, votes=[MeanOfScores("own")]))
    assert plain["init_args"]["votes"] == [{"class_path": "vote_rules.MeanOfScores", "init_args": {"name": "own"}}]
    (rule,) = made_from(plain).votes
    assert (type(rule), rule.name) == (MeanOfScores, "own")


def test_each_of_several_rewards() -> None:
    rollout = round_of([1, 1, 0, 0, 0, 0, 0, 1], [0.0] * 8, ["4"] * 8)
    said: list[dict[str, float | None]] = [{"right": 1.0, "short": 0.5}, {"right": 1.0, "short": None}] * 2
    # Of problem 1 only one of the functions was asked, as in a MixedVerifier.
    said += [{"right": 0.0}] * 4
    rollout.verifications = [one._replace(rewards=s) for one, s in zip(rollout.verifications, said, strict=True)]
    metrics = EvaluationMetrics(4, [], ["right", "short"])
    metrics.update(rollout, None)
    values = metrics.compute()
    assert float(values["reward/right"]) == (1.0 + 0.0) / 2
    assert float(values["reward/short"]) == (0.5 + 0 + 0.5 + 0) / 4
    assert float(values["reward"]) == 3 / 8
    metrics.reset()
    assert metrics.compute()["reward/right"].isnan()


def test_answers_are_compared_by_the_verifier_that_their_problem_names() -> None:
    def compare(pairs: Any) -> list[bool]:
        return [pair[2:] == ("numbers",) and "2" not in pair for pair in pairs]

    # For the first problem 1 and 1.0 are one answer, with two of three votes; for the second three answers tie, and one
    # of them is correct.
    rollout = round_of([1, 1, 0, 1, 0, 0], [0.0] * 6, ["1", "1.0", "2"] * 2)
    names = ["numbers", "texts"]
    rollout.problems = [p._replace(verifier=name) for p, name in zip(rollout.problems, names, strict=True)]
    metrics = EvaluationMetrics(3, [])
    metrics.update(rollout, compare)
    majority = metrics.groups["maj@3"]
    assert isinstance(majority, VoteAccuracy)
    torch.testing.assert_close(majority.per_problem()[1], torch.tensor([1.0, 1 / 3]))


@pytest.mark.parametrize("name", ["amc 23", "math-500 v1.5", "type", "keys", "training", "a/b", "ü"])
def test_a_set_may_have_any_name(name: str) -> None:
    metrics = MetricsOfSets()
    metrics["sums"], metrics[name] = EvaluationMetrics(1, []), EvaluationMetrics(2, [])
    assert list(metrics) == ["sums", name]
    assert "pass@2" in metrics[name].groups
    assert "pass@2" not in metrics["sums"].groups
    assert list(metrics.children())  # they move to other devices with the module
    assert not metrics.state_dict()  # and are not saved with it
