"""What a run's solutions say, by the project's own metrics: accuracies, votes, and how well the score judges."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laser_lightning.arguments import made_from
from laser_lightning.errors import UserError
from laser_lightning.evaluation.settings import EvaluationSettings
from laser_lightning.metrics import (
    PassAt1,
    SampleGroups,
    SelfVerification,
    VoteRule,
    answer_ids,
    pair_counts,
    problem_curves,
    standard_error,
)
from laser_lightning.metrics.answers import representatives
from laser_lightning.rollout.solution_store import kept_files, read_solutions
from laser_lightning.runs.checkpoints import read_file
from laser_lightning.verifiers import VerifierPool

LOGGED = {
    "pass@1": "pass@1",
    "maj": "maj@{k}",
    "best rule": "best_rule@{k}",
    "weighted": "weighted_maj@{k}",
    "best of k": "best_of@{k}",
    "F1": "self_verification/f1",
    "AUROC": "self_verification/auroc",
    "AUROC within": "self_verification/auroc_within_mean",
    "mixed problems": "self_verification/mixed_problems",
    "ECE": "self_verification/ece",
    "Brier": "self_verification/brier",
}
"""Values of ``Measured``, and the names under which a run logs them itself."""

BY_PROBLEM = ("pass@1", "maj", "weighted", "best rule", "best of k")
"""Those that are means over problems."""


@dataclass(frozen=True)
class Judges:
    """What decides on answers besides the solutions themselves.

    Attributes:
        votes: the run's vote rules, with what they learned from its training rounds.
        pool: compares answers whose canonical texts do not decide; None where they do.
    """

    votes: list[VoteRule]
    pool: VerifierPool | None

    @classmethod
    def of(cls, checkpoint: Path) -> "Judges":
        """Those of a run, from its last checkpoint."""
        saved = read_file(checkpoint)
        plain = saved["laser_arguments"]["plain"]
        votes = made_from(plain["evaluation"]).votes if "evaluation" in plain else EvaluationSettings().votes
        for rule in votes:
            rule.load_state_dict(saved["laser_votes"].get(rule.name, {}))
        verifier = made_from(plain["verifier"])
        return cls(votes, None if verifier.canonical_decides else VerifierPool(verifier))

    @property
    def best(self) -> VoteRule | None:
        """The rule that was best on the training problems, as it decides now; None if the run did not choose one."""
        return next((rule.settled() for rule in self.votes if rule.name == "best_rule"), None)


@dataclass(frozen=True)
class Measured:
    """An evaluation set's solutions, measured.

    Attributes:
        samples: solutions of each problem, k.
        values: by the keys of ``LOGGED``, and ``best rule - maj``, its ``paired s.e.``, and ``best of k - pass@1``.
        by_problem: [P] each, what those of ``BY_PROBLEM`` are the mean of.
        curves: accuracy by rule (``maj``, ``weighted_maj``, ``best_rule``, ``best_of``) and number of solutions.
    """

    samples: int
    values: dict[str, float]
    by_problem: dict[str, Tensor]
    curves: dict[str, dict[int, float]]


def measure(groups: SampleGroups, votes: Sequence[VoteRule]) -> Measured:
    """Measure solutions of an evaluation set.

    Args:
        groups: the same number of solutions to each of P problems.
        votes: rules beside majority, weighted majority and best of k.

    Raises:
        UserError: if a problem has more solutions than another.
    """
    if len(sizes := groups.sizes.unique()) != 1:
        raise UserError(f"Problems have {sizes.min()} to {sizes.max()} solutions: an evaluation was not finished.")
    k = int(sizes)
    points = problem_curves(groups, votes)
    judged = SelfVerification()
    judged.update(groups.self_rewards, groups.rewards)
    judgement = {name: float(value) for name, value in judged.compute().items()}
    pairs = pair_counts(groups.problem, groups.self_rewards, groups.correct, len(groups.sizes))
    unknown = torch.full_like(points[f"maj@{k}"], math.nan)
    by_problem = {"pass@1": PassAt1().problem_values(groups)}
    by_problem |= {name: points.get(LOGGED[name].format(k=k), unknown) for name in BY_PROBLEM if name not in by_problem}
    gains = by_problem["best rule"] - by_problem["maj"]
    values = {
        **{name: float(values.mean()) for name, values in by_problem.items()},
        "best rule - maj": float(gains.mean()),
        "paired s.e.": float(standard_error(gains)),
        "F1": judgement["f1"],
        "AUROC": judgement["auroc"],
        "AUROC within": float(pairs.mean_auroc()),
        "mixed problems": float(pairs.mixed_problems()),
        "ECE": judgement["ece"],
        "Brier": judgement["brier"],
    }
    values["best of k - pass@1"] = values["best of k"] - values["pass@1"]
    curves: dict[str, dict[int, float]] = {}
    for name, of_problems in points.items():
        rule, _, at = name.partition("@")
        curves.setdefault(rule, {})[int(at)] = float(of_problems.mean())
    return Measured(k, values, by_problem, curves)


def check_logged(measured: Measured, logged: Mapping[str, float | None], where: Path) -> None:
    """Refuse values that are not those which the run itself logged for the same solutions.

    Args:
        measured: by ``measure``.
        logged: by the metric's name behind ``val/<set>/``; None where undefined.
        where: the run's directory, for the message.

    Raises:
        UserError: naming the metric.
    """
    for heading, name in LOGGED.items():
        metric = name.format(k=measured.samples)
        own, theirs = measured.values[heading], logged.get(metric)
        if metric in logged and not math.isclose(own, math.nan if theirs is None else theirs, abs_tol=1e-5):
            if math.isnan(own) and theirs is None:
                continue
            raise UserError(
                f"{where}: the solutions of the last evaluation give {metric} = {own}, and the run logged {theirs}: "
                "its solutions, or its checkpoint, are not those of its end."
            )


def logged_solutions(path: Path, dataset: str, step: int, pool: VerifierPool | None = None) -> SampleGroups:
    """The solutions of one evaluation in the solution log of a training run.

    Args:
        path: ``solutions/val.jsonl``.
        dataset: name of the set.
        step: optimizer steps behind the weights.
        pool: see ``Judges``.
    """
    with path.open(encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["step"] == step and row["dataset"] == dataset]
    if not rows:
        raise UserError(f"{path} has no solutions of the set '{dataset}' at step {step}: name a set of it with --set.")
    return _groups(rows, pool)


def kept_solutions(folder: Path, pool: VerifierPool | None = None) -> SampleGroups:
    """The solutions that an evaluation kept.

    Args:
        folder: of the set, such as ``kept/test/arithmetic``.
        pool: see ``Judges``.
    """
    return _groups([vars(solution) for file in kept_files(folder) for solution in read_solutions(file)], pool)


def _groups(rows: Sequence[Mapping[str, Any]], pool: VerifierPool | None) -> SampleGroups:
    """Solutions as the metrics take them; those of a problem stand in the order in which they were drawn."""
    drawn: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        drawn.setdefault(row["index"], []).append(row)
    answers: list[list[str | None]] = [[row["answer"] for row in group] for group in drawn.values()]
    if pool is not None:
        names = [group[0].get("verifier") for group in drawn.values()]
        answers = representatives(answers, pool.equivalent, names)
    ordered = [row for group in drawn.values() for row in group]
    several = [_floats(row["scores"]) for row in ordered if row.get("scores")]
    return SampleGroups.regroup(
        problem_ids=torch.tensor([row["index"] for row in ordered]),
        sample_indices=torch.tensor([sample for group in drawn.values() for sample in range(len(group))]),
        rewards=_floats([row["reward"] for row in ordered]),
        answer_ids=answer_ids([answer for group in answers for answer in group]),
        self_rewards=_floats([row["self_reward"] for row in ordered]),
        finished=torch.tensor([row["finished"] for row in ordered]),
        scores=torch.stack(several) if several else None,
    )


def _floats(values: Sequence[float | None]) -> Tensor:
    """[N]; NaN for what was not finite, which metrics refuse, or is absent among several scores."""
    return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float32)
