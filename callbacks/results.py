"""What an evaluation measured, as plain numbers with intervals: of each set, and of their average."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from laser_lightning.callbacks.base import finite
from laser_lightning.callbacks.names import row_order
from laser_lightning.metrics import MeanReward, SampleGroups, percentile_interval, problem_curves, resampled_means
from laser_lightning.metrics.bootstrap import LEVEL, RESAMPLES
from laser_lightning.metrics.votes import FIXED_RULES, VoteRule


class Estimate(NamedTuple):
    """A mean over problems and the ends of its bootstrap interval; NaN where undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class SetResult:
    """The results of one set, or of the average over sets.

    Attributes:
        problems: number of problems; None for the average.
        samples: solutions per problem, k; None for the average over sets of different k.
        values: value of each metric, by the name that follows ``<stage>/<set>/``.
        intervals: lower and upper end for those of them that are means over problems.
        curves: of pass@k and of each vote rule, by its name, the estimate at each k.
        tokens_per_solution: of each curve, the mean tokens that one more solution costs: its length, and for rules that
            look at scores its judgement, so that k solutions cost k (length + judging tokens). NaN where not known.
    """

    problems: int | None
    samples: int | None
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    curves: dict[str, dict[int, Estimate]]
    tokens_per_solution: dict[str, float] = field(default_factory=dict)

    def cost(self, curve: str) -> float:
        """Tokens of one more solution on a curve; NaN where not known."""
        return self.tokens_per_solution.get(curve, math.nan)


@dataclass(frozen=True)
class EvaluationResult:
    """The results of an evaluation.

    Attributes:
        stage: ``val`` or ``test``.
        step: optimizer steps behind the weights.
        sets: by set.
        average: unweighted, over several sets. It has what all of them have: maj@32 only if each has 32 samples. It is
            NaN where one of them is, and its intervals are those of the mean of independent resamples.
    """

    stage: str
    step: int
    sets: dict[str, SetResult]
    average: SetResult | None

    def rows(self) -> list[tuple[str, SetResult]]:
        """The sets, and the average behind them, by name."""
        return [*self.sets.items(), *([] if self.average is None else [("average", self.average)])]


def evaluation_result(
    stage: str,
    step: int,
    values: Mapping[str, Mapping[str, float]],
    groups: Mapping[str, SampleGroups],
    votes: Sequence[VoteRule] = (),
) -> EvaluationResult:
    """Adds intervals, curves and the average to what was logged.

    Args:
        stage: ``val`` or ``test``.
        step: optimizer steps behind the weights.
        values: the logged value of each metric, by set.
        groups: the solutions of each set.
        votes: rules beside those that are always there.
    """
    means = {name: _Means.of(name, groups[name], votes) for name in values}
    curves = {"pass": False} | {rule.name: rule.settled().uses_scores for rule in (*FIXED_RULES, *votes)}
    sets = {}
    for name, own in values.items():
        sizes = set(groups[name].sizes.tolist())
        ordered = {metric: own[metric] for metric in row_order(own)}
        samples = sizes.pop() if len(sizes) == 1 else None
        sets[name] = _set_result(len(groups[name].sizes), samples, ordered, means[name], curves)
    average = _average(list(sets.values()), list(means.values()), curves) if len(sets) > 1 else None
    return EvaluationResult(stage, step, sets, average)


@dataclass(frozen=True)
class _Means:
    """Means over problems: their names [C], values [C] and bootstrap resamples [R, C]."""

    names: list[str]
    values: Tensor
    resamples: Tensor

    @classmethod
    def of(cls, dataset: str, groups: SampleGroups, votes: Sequence[VoteRule]) -> "_Means":
        columns = {"reward": MeanReward().problem_values(groups), **problem_curves(groups, votes)}
        table = torch.stack(list(columns.values()), dim=1).cpu().double()
        return cls(list(columns), table.mean(dim=0), resampled_means(table, seed=crc32(dataset.encode())))

    def select(self, names: list[str]) -> "_Means":
        columns = [self.names.index(name) for name in names]
        return _Means(names, self.values[columns], self.resamples[:, columns])

    def estimates(self) -> dict[str, Estimate]:
        low, high = percentile_interval(self.resamples)
        rows = zip(self.values.tolist(), low.tolist(), high.tolist(), strict=True)
        return {name: Estimate(*row) for name, row in zip(self.names, rows, strict=True)}


def _average(sets: list[SetResult], means: list[_Means], curves: Mapping[str, bool]) -> SetResult:
    shared = [name for name in means[0].names if all(name in other.names for other in means)]
    parts = [one.select(shared) for one in means]
    mean = _Means(
        shared,
        torch.stack([part.values for part in parts]).mean(dim=0),
        torch.stack([part.resamples for part in parts]).mean(dim=0),
    )
    names = [name for name in sets[0].values if all(name in other.values for other in sets)]
    values = {name: sum(one.values[name] for one in sets) / len(sets) for name in names}
    samples = {one.samples for one in sets}
    return _set_result(None, samples.pop() if len(samples) == 1 else None, values, mean, curves)


def _set_result(
    problems: int | None, samples: int | None, values: dict[str, float], means: _Means, judged: Mapping[str, bool]
) -> SetResult:
    """The results of a set with curves of these names, each with whether its choice looks at scores."""
    estimates = means.estimates()
    curves: dict[str, dict[int, Estimate]] = {name: {} for name in judged}
    for name, estimate in estimates.items():
        curve, _, k = name.partition("@")
        if k:
            curves[curve][int(k)] = estimate
    intervals = {name: (estimates[name].low, estimates[name].high) for name in values if name in estimates}
    length, judging = (values.get(f"response/{name}", math.nan) for name in ("length_tokens", "judging_tokens"))
    costs = {name: length + judging if uses_scores else length for name, uses_scores in judged.items()}
    return SetResult(problems, samples, values, intervals, curves, costs)


# ------------------------------------------------------------------------ files


def write_table(path: Path, result: EvaluationResult) -> None:
    """A CSV file with a row per set, and a column per metric, with ``_low`` and ``_high`` where there is an interval.

    Args:
        path: of the file.
        result: what to write; cells of undefined values are empty.
    """
    metrics = row_order(dict.fromkeys(name for _, one in result.rows() for name in one.values))
    with_interval = {name for _, one in result.rows() for name in one.intervals}
    columns = ["set", "problems", "samples"]
    for name in metrics:
        columns += [name, f"{name}_low", f"{name}_high"] if name in with_interval else [name]
    rows = []
    for dataset, one in result.rows():
        row: dict[str, Any] = {"set": dataset, "problems": one.problems, "samples": one.samples, **one.values}
        for name, (low, high) in one.intervals.items():
            row |= {f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    _write_csv(path, columns, rows)


def write_curves(path: Path, result: EvaluationResult) -> None:
    """A CSV file with a row per set, curve and k, with the tokens that k solutions to a problem cost.

    Args:
        path: of the file.
        result: what to write; cells of undefined values are empty.
    """
    rows = [
        {"set": dataset, "metric": name, "k": k, "tokens": k * one.cost(name), **estimate._asdict()}
        for dataset, one in result.rows()
        for name, curve in one.curves.items()
        for k, estimate in curve.items()
    ]
    _write_csv(path, ["set", "metric", "k", "tokens", *Estimate._fields], rows)


def write_json(path: Path, result: EvaluationResult) -> None:
    """Table and curves as one JSON file.

    Args:
        path: of the file.
        result: what to write; undefined values are null.
    """
    content = {
        "stage": result.stage,
        "step": result.step,
        "interval": {"method": "percentile bootstrap over problems", "level": LEVEL, "resamples": RESAMPLES},
        "sets": {name: _plain(one) for name, one in result.sets.items()},
        "average": None if result.average is None else _plain(result.average),
    }
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _write_csv(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: finite(value) if isinstance(value, float) else value for key, value in row.items()})


def _plain(result: SetResult) -> dict[str, Any]:
    return {
        "problems": result.problems,
        "samples": result.samples,
        "values": {name: finite(value) for name, value in result.values.items()},
        "intervals": {name: [finite(low), finite(high)] for name, (low, high) in result.intervals.items()},
        "curves": {
            name: [
                {"k": k, "tokens": finite(k * result.cost(name))}
                | {key: finite(value) for key, value in at_k._asdict().items()}
                for k, at_k in curve.items()
            ]
            for name, curve in result.curves.items()
        },
    }
