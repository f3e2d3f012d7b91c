"""The report of a stand-alone evaluation: tables, CSV, JSON, and figures of accuracy against k."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from matplotlib.image import imsave
from rich import box
from rich.table import Table
from rich.text import Text

from laser_lightning.callbacks.base import RunCallback, fits, show, values_by_set
from laser_lightning.callbacks.curve_plots import evaluation_figure
from laser_lightning.callbacks.names import number
from laser_lightning.callbacks.plots import render
from laser_lightning.callbacks.publish import publish_figure
from laser_lightning.callbacks.results import (
    EvaluationResult,
    SetResult,
    evaluation_result,
    write_curves,
    write_json,
    write_table,
)
from laser_lightning.metrics import SampleGroups, VoteRule

DPI = 150
VERIFICATION = ("f1", "accuracy_on_correct", "accuracy_on_incorrect", "auroc", "ece", "correct", "incorrect")
WITHIN_PROBLEMS = ("auroc_within", "auroc_within_mean", "mixed_problems", "brier")
BY_KIND = ("pass@1", *(f"self_verification/{name}" for name in WITHIN_PROBLEMS))
COSTS = (
    "reward",
    "response/truncation_rate",
    "response/length_tokens",
    "response/judging_tokens",
    "response/tokens",
    "seconds",
)
BROKEN = {  # names too long for one line
    "weighted_maj": "weighted_\nmaj",
    "best_of": "best_of\n",
    "accuracy_on_correct": "accuracy\n_on_correct",
    "accuracy_on_incorrect": "accuracy_on\n_incorrect",
    "response/truncation_rate": "truncation\n_rate",
    "response/length_tokens": "length\n_tokens",
    "response/judging_tokens": "judging\n_tokens",
    "response/tokens": "tokens",
}
COLUMNS_OF_VOTES = 4  # those that 80 columns hold beside the others
Cell = Callable[[SetResult], str]


class EvaluationReport(RunCallback):
    """Reports what ``validate`` or ``test`` measured: every metric of every set and their average over sets.

    Tables are printed, and ``<run>/evaluation`` gets ``<stage>.csv`` (a row per set), ``<stage>_curves.csv`` and
    ``<stage>_curves.png`` (pass@k and all votes at k = 1, 2, 4, ... up to the samples, see ``metrics.problem_curves``),
    ``<stage>_tokens.png`` (the same against the tokens of k solutions, their judgement included for votes that look at
    scores: equal compute) and ``<stage>.json`` (all of it), where the stage is ``val`` or ``test``. Means over problems
    have 95% intervals of the bootstrap over problems. During ``fit`` nothing is done: the run's summary shows its
    evaluations.
    """

    def __init__(self) -> None:
        self._groups: dict[str, SampleGroups] = {}
        self._votes: Sequence[VoteRule] = ()

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self.run_directory / "evaluation"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without solutions."""
        super().setup(trainer, pl_module, stage)
        self.needs_laser_module(pl_module, "report")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the solutions of all ranks, which the module forgets right after this hook."""
        if not fits(trainer):
            module = self.needs_laser_module(pl_module, "report")
            names = module.data.evaluation_problems
            self._groups = {name: module.evaluator.metrics_of(name).sample_groups() for name in names}
            self._votes = module.evaluator.votes

    on_test_epoch_end = on_validation_epoch_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report on the validation sets."""
        if not fits(trainer):
            self._report(trainer, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report on the test sets."""
        self._report(trainer, "test")

    def _report(self, trainer: Trainer, stage: str) -> None:
        values, groups = values_by_set(trainer, stage), self._groups
        self._groups = {}
        if values:
            write = partial(self._write_report, trainer, stage, values, groups)
            self.write(trainer, "The report", self.directory, write)

    def _write_report(
        self,
        trainer: Trainer,
        stage: str,
        values: dict[str, dict[str, float]],
        groups: dict[str, SampleGroups],
    ) -> None:
        result = evaluation_result(stage, self.step(trainer), values, groups, self._votes)
        self.directory.mkdir(parents=True, exist_ok=True)
        write_table(self.directory / f"{stage}.csv", result)
        write_json(self.directory / f"{stage}.json", result)
        write_curves(self.directory / f"{stage}_curves.csv", result)
        curves = {name: one.curves for name, one in result.rows()}
        costs = {name: one.tokens_per_solution for name, one in result.rows()}
        figures = {
            "curves": evaluation_figure(stage, result.step, curves),
            "tokens": evaluation_figure(stage, result.step, curves, costs),
        }
        for name, figure in figures.items():
            figure.set_dpi(DPI)
            image = render(figure)
            imsave(self.directory / f"{stage}_{name}.png", image)
            publish_figure(trainer, f"figures/{stage}_{name}", image, result.step)
        decided = [(rule.name, rule.settled()) for rule in self._votes]
        lines = [f"{name} votes by {rule.name}" for name, rule in decided if rule.name != name]
        show(*tables(result), "", *lines, f"evaluation: {self.directory}")


def tables(result: EvaluationResult) -> list[Table]:
    """Tables with a row per set, which 80 columns hold with names of up to 13 characters.

    Args:
        result: what to show. A value that is undefined is -, and what a set does not have is empty.
    """
    votes: list[tuple[str, Cell]] = [
        (f"{BROKEN.get(name, name)}@k", _at_k(name)) for name in result.rows()[0][1].curves
    ]
    accuracy: dict[str, Cell] = {
        "problems\nx k": lambda one: " x ".join(str(size) for size in (one.problems, one.samples) if size is not None),
        "pass@1": _metric("pass@1"),
        "95% interval": _interval,
        **dict(votes[:COLUMNS_OF_VOTES]),
    }
    verification = {BROKEN.get(name, name): _metric(f"self_verification/{name}") for name in VERIFICATION}
    within = {name: _metric(f"self_verification/{name}") for name in WITHIN_PROBLEMS}
    return [
        _table(f"{result.stage} at step {result.step}", result, accuracy),
        *(
            _table("evaluation.votes", result, dict(votes[start : start + COLUMNS_OF_VOTES]))
            for start in range(COLUMNS_OF_VOTES, len(votes), COLUMNS_OF_VOTES)
        ),
        _table("self_verification/", result, verification),
        _table("self_verification/, within problems", result, within),
        _table("reward, response/, seconds", result, {BROKEN.get(name, name): _metric(name) for name in COSTS}),
        *(table for name in BY_KIND for table in _kinds_table(f"{name}/", result)),
    ]


def _metric(name: str) -> Cell:
    return lambda one: number(name, one.values[name]) if name in one.values else ""


def _at_k(name: str) -> Cell:
    # With one solution there is nothing to choose from; the metrics do not exist then.
    return lambda one: "" if one.samples in (None, 1) else _metric(f"{name}@{one.samples}")(one)


def _interval(one: SetResult) -> str:
    low, high = one.intervals.get("pass@1", (math.nan, math.nan))
    return f"{low:.3f}-{high:.3f}" if math.isfinite(low) else "-"


def _table(title: str, result: EvaluationResult, columns: dict[str, Cell]) -> Table:
    table = _empty_table(title, "set")
    for header in columns:
        table.add_column(header, justify="right", no_wrap=True)
    for name, one in result.rows():
        table.add_row(Text(name), *(cell(one) for cell in columns.values()))
    return table


def _kinds_table(prefix: str, result: EvaluationResult) -> list[Table]:
    metrics = dict.fromkeys(name for one in result.sets.values() for name in one.values if name.startswith(prefix))
    if not metrics:
        return []
    table = _empty_table(prefix, "kind")
    for name in result.sets:
        table.add_column(Text(name), justify="right", overflow="fold")
    for metric in metrics:
        table.add_row(Text(metric.removeprefix(prefix)), *(_metric(metric)(one) for one in result.sets.values()))
    return [table]


def _empty_table(title: str, first: str) -> Table:
    table = Table(
        title=Text(f"\n{title}", style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    table.add_column(first, overflow="fold")
    return table
