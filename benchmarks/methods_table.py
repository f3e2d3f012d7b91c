"""The table: a row per method, and per seed where asked for, as Markdown, CSV and JSON."""

import csv
import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from methods_runs import Run
from methods_values import BY_PROBLEM, Judges, Measured, check_logged, kept_solutions, logged_solutions, measure
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.metrics import standard_error

SECTIONS = {
    "training": "Held-out problems, at the end of training",
    "val": "Held-out problems, with more solutions",
    "test": "Problems of the split `test`, with more solutions",
}
JUDGING = ("F1", "AUROC", "AUROC within", "mixed problems", "ECE", "Brier")
VOTES = ("maj", "weighted", "best rule", "best rule - maj", "best of k", "best of k - pass@1")
COSTS = ("tokens per step", "training s", "CPU s", "GB")
COLUMNS = {
    "training": ("pass@1 before", "pass@1", "gain", *VOTES, *JUDGING, *COSTS),
    "val": ("pass@1", *VOTES, *JUDGING),
    "test": ("pass@1", *VOTES, *JUDGING),
}
FORMATS = {
    "gain": "{:+.3f}",
    "best rule - maj": "{:+.3f}",
    "best of k - pass@1": "{:+.3f}",
    "mixed problems": "{:.0f}",
    "tokens per step": "{:,.0f}",
    "training s": "{:.0f}",
    "CPU s": "{:.0f}",
    "GB": "{:.2f}",
}
CUT = "*"
NOTE_ON_CUT = (
    f"{CUT} of a run that was broken off and went on: steps behind its last checkpoint were taken twice, and CPU "
    "seconds of a start that was killed together with this script are missing."
)


@dataclass(frozen=True)
class Entry:
    """A run in the table.

    Attributes:
        run: the run.
        rule: name of the vote rule that was best on its training problems; None if it did not choose one.
        measured: its solutions by section, as far as they are there.
        values: what else the first section has: the start, and what the training took.
    """

    run: Run
    rule: str | None
    measured: dict[str, Measured]
    values: dict[str, float]

    def value(self, section: str, column: str) -> float:
        """A cell; NaN where undefined."""
        measured = self.measured[section].values
        return self.values[column] if section == "training" and column not in measured else measured[column]

    def cell(self, section: str, column: str) -> str:
        """A cell as text."""
        text = number(column, self.value(section, column))
        if column == "best rule - maj":
            return f"{text} ± {number('', self.measured[section].values['paired s.e.'])}"
        return text + CUT if column in ("training s", "CPU s") and self.run.taken.cut else text


def read_entry(run: Run, dataset: str) -> Entry:
    """Measure what a run left.

    Args:
        run: trained; its evaluations may be missing.
        dataset: name of the set of problems.

    Raises:
        UserError: if there is no such set, or the run's solutions are not those of its end.
    """
    if dataset not in (known := run.summary["end"]["sets"]):
        raise UserError(f"it has no set '{dataset}': name one of {', '.join(known)} with --set.")
    judges = Judges.of(run.directory / "checkpoints/last.ckpt")
    start, end = (run.summary[moment]["sets"][dataset] for moment in ("start", "end"))
    log = run.directory / "solutions/val.jsonl"
    solutions = logged_solutions(log, dataset, run.summary["end"]["step"], judges.pool)
    measured = {"training": measure(solutions, judges.votes)}
    check_logged(measured["training"], end, run.directory)
    for name, phase in run.evaluations.items():
        if phase.done:
            folder = run.folder_of(name) / "kept" / phase.arguments[0] / dataset
            measured[name] = measure(kept_solutions(folder, judges.pool), judges.votes)
    tokens = [float(row["train/generated_tokens"]) for row in run.metrics() if row.get("train/generated_tokens")]
    values = {
        "pass@1 before": start["pass@1"],
        "gain": measured["training"].values["pass@1"] - start["pass@1"],
        "tokens per step": statistics.mean(tokens) if tokens else math.nan,
        "training s": run.summary["training_seconds"],
        "CPU s": run.taken.cpu_seconds,
        "GB": run.taken.peak_gb,
    }
    best = judges.best
    return Entry(run, None if best is None else best.name, measured, values)


@dataclass(frozen=True)
class Mean:
    """The runs of a method together.

    Attributes:
        entries: of its seeds.
    """

    entries: Sequence[Entry]

    def value(self, section: str, column: str) -> float:
        """The mean over seeds; NaN where one of them is undefined."""
        return statistics.mean(entry.value(section, column) for entry in self.entries)

    def error(self, section: str, column: str) -> float:
        """The standard error of that mean over seeds; NaN for a single one.

        That of the best rule's gain is paired by problem instead: each problem is the mean over seeds.
        """
        if column == "best rule - maj":
            gains = self.by_problem(section, "best rule") - self.by_problem(section, "maj")
            return float(standard_error(gains))
        return float(standard_error(torch.tensor([entry.value(section, column) for entry in self.entries]).double()))

    def by_problem(self, section: str, column: str) -> Tensor:
        """[P] the mean over seeds of each problem's value."""
        return torch.stack([entry.measured[section].by_problem[column] for entry in self.entries]).mean(dim=0)

    def cell(self, section: str, column: str) -> str:
        """A cell as text."""
        text, error = number(column, self.value(section, column)), self.error(section, column)
        cut = any(entry.run.taken.cut for entry in self.entries) and column in ("training s", "CPU s")
        plain = math.isnan(error) or column in COSTS
        return text + (CUT if cut else "") + ("" if plain else f" ± {number('', error)}")


def number(column: str, value: float) -> str:
    """A value as its column shows it."""
    return "-" if math.isnan(value) else FORMATS.get(column, "{:.3f}").format(value)


def differences(methods: Mapping[str, Sequence[Entry]]) -> str | None:
    """A table of how much better than the first method each other one is, over the seeds that both have.

    Standard errors are paired by problem, each problem the mean over seeds.

    Args:
        methods: the runs of each, by its name.

    Returns:
        None where there is nothing to compare.
    """
    (first, theirs), *others = methods.items()
    columns = [(section, column) for section in ("training", "test") for column in BY_PROBLEM]
    heads = [f"minus {first}", "seeds", *(f"{column} ({section})" for section, column in columns)]
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- |" + " ---: |" * len(columns)]
    for name, entries in others:
        shared = sorted({entry.run.seed for entry in entries} & {entry.run.seed for entry in theirs})
        if not shared:
            continue
        ours, those = ([entry for entry in side if entry.run.seed in shared] for side in (entries, theirs))
        cells = []
        for section, column in columns:
            if any(section not in entry.measured for entry in (*ours, *those)):
                cells.append("-")
                continue
            gaps = Mean(ours).by_problem(section, column) - Mean(those).by_problem(section, column)
            cells.append(f"{number('gain', float(gaps.mean()))} ± {number('', float(standard_error(gaps)))}")
        lines.append(f"| {name} | {', '.join(map(str, shared))} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else None


def markdown(methods: Mapping[str, Sequence[Entry]], per_seed: bool) -> str:
    """A table for each section that some run has, and one of differences to the first method.

    Args:
        methods: the runs of each, by its name; none of them without a run.
        per_seed: a row for each seed before each mean.
    """
    parts = []
    for section, title in SECTIONS.items():
        present = {name: [entry for entry in entries if section in entry.measured] for name, entries in methods.items()}
        present = {name: entries for name, entries in present.items() if entries}
        if not present:
            continue
        samples = sorted({entry.measured[section].samples for entries in present.values() for entry in entries})
        columns = COLUMNS[section]
        heads = ["method", "seeds", "best rule is", *columns]
        lines = ["| " + " | ".join(heads) + " |", "| --- | --- | --- |" + " ---: |" * len(columns)]
        for name, entries in present.items():
            seeds = ", ".join(str(entry.run.seed) for entry in entries)
            rules = ", ".join(dict.fromkeys(entry.rule or "-" for entry in entries))
            rows: list[tuple[str, str, Callable[[str, str], str]]] = []
            if per_seed or len(entries) == 1:
                rows += [(str(entry.run.seed), entry.rule or "-", entry.cell) for entry in entries]
            if len(entries) > 1:
                rows.append((f"mean of {seeds}", rules, Mean(entries).cell))
            for seed, rule, cell in rows:
                cells = [name, seed, rule, *(cell(section, column) for column in columns)]
                lines.append("| " + " | ".join(cells) + " |")
        k = ", ".join(map(str, samples))
        parts.append(f"{title} (k = {k}):\n\n" + "\n".join(lines))
    if (gaps := differences(methods)) is not None:
        parts.append(f"Differences to {next(iter(methods))}, with standard errors paired by problem:\n\n{gaps}")
    if any(entry.run.taken.cut for entries in methods.values() for entry in entries):
        parts.append(NOTE_ON_CUT)
    return "\n\n".join(parts)


def records(methods: Mapping[str, Sequence[Entry]]) -> list[dict[str, Any]]:
    """All values as rows: of each method its seeds, and their mean and standard error; None where undefined."""
    rows = []
    for name, entries in methods.items():
        for entry in entries:
            known = [section for section in SECTIONS if section in entry.measured]
            values = {
                f"{section}/{column}": entry.value(section, column) for section in known for column in COLUMNS[section]
            }
            values |= {f"{section}/paired s.e.": entry.measured[section].values["paired s.e."] for section in known}
            own = {"best rule is": entry.rule, "cut": entry.run.taken.cut}
            rows.append({"method": name, "seed": str(entry.run.seed), **own, **_defined(values)})
        common = [section for section in SECTIONS if all(section in entry.measured for entry in entries)]
        cells = [(section, column) for section in common for column in COLUMNS[section]]
        mean = Mean(entries)
        for seed, of in (("mean", mean.value), ("standard error", mean.error)):
            rows.append(
                {"method": name, "seed": seed, **_defined({f"{s}/{column}": of(s, column) for s, column in cells})}
            )
    return rows


def _defined(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def write_tables(methods: Mapping[str, Sequence[Entry]], directory: Path, per_seed: bool) -> str:
    """Write ``table.md``, ``table.csv`` and ``table.json``.

    Args:
        methods: the runs of each, by its name.
        directory: where to.
        per_seed: see ``markdown``.

    Returns:
        The table in Markdown.
    """
    text, rows = markdown(methods, per_seed), records(methods)
    (directory / "table.md").write_text(text + "\n", encoding="utf-8")
    (directory / "table.json").write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    columns: Iterable[str] = dict.fromkeys(key for row in rows for key in row)
    with (directory / "table.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text
