"""The README's table and figure: five ways to train on the embedded task, with the same budget, three seeds each.

    python benchmarks/methods.py --out runs/methods

LaSeR, LaSeR without the self-rewards in the advantages, GRPO, the supervised variant (cross-entropy on a "yes" and a
"no" token behind <eos>) and RISE (the policy writes a verification of each of its solutions). All take the quickstart's
settings, 200 optimizer steps from the embedded model, and are evaluated on the same held-out problems, which training
cannot contain. A seed sets the training problems and all sampling. CPU seconds are of the whole run, evaluations
included.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from laser_lightning.metrics import MajorityVote, WeightedMajorityVote, answer_ids, standard_error

OVERLAYS = {
    "LaSeR": None,
    "LaSeR without mixing": "baselines/without_mixing",
    "GRPO": "baselines/grpo",
    "supervised variant": "baselines/supervised",
    "RISE": "baselines/rise",
}
COLOURS = dict(zip(OVERLAYS, ("#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7"), strict=True))
SET = "arithmetic"
METRICS = {
    "pass@1": "pass@1",
    "F1": "self_verification/f1",
    "AUROC": "self_verification/auroc",
    "AUROC within": "self_verification/auroc_within",
    "ECE": "self_verification/ece",
    "maj@8": "maj@8",
    "weighted maj@8": "weighted_maj@8",
    "best of 8": "best_of@8",
}


@dataclass(frozen=True)
class Run:
    """One training run of a method."""

    method: str
    seed: int
    directory: Path

    def train(self) -> None:
        """Train, unless that was done, and note what it took."""
        if self._resources.exists():
            return
        shutil.rmtree(self.directory, ignore_errors=True)  # of a run that was cut short: what it took is not known
        overlay = OVERLAYS[self.method]
        command = [sys.executable, "-m", "laser_lightning", "fit", "--config", "quickstart"]
        command += [] if overlay is None else ["--config", overlay]
        command += [f"--seed_everything={self.seed}", "--run_dir", str(self.directory)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{self.method}, seed {self.seed}, failed: {' '.join(command)}")
        taken = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_gb": usage.ru_maxrss / 1e6}
        self._resources.write_text(json.dumps(taken))
        print(f"{self.method}, seed {self.seed}: done", file=sys.stderr)

    @property
    def _resources(self) -> Path:
        return self.directory / "resources.json"

    def values(self) -> dict[str, float]:
        """The table's columns, by their headings."""
        summary = json.loads((self.directory / "summary.json").read_text())
        taken = json.loads(self._resources.read_text())
        start, end = summary["start"]["sets"][SET], summary["end"]["sets"][SET]
        tokens = [float(row["train/generated_tokens"]) for row in self.metrics() if row["train/generated_tokens"]]
        return {
            "pass@1 before": start["pass@1"],
            **{heading: end[name] for heading, name in METRICS.items()},
            "weighted - plain": self.votes_difference(summary["end"]["step"])[0],
            "paired s.e.": self.votes_difference(summary["end"]["step"])[1],
            "tokens per step": statistics.mean(tokens),
            "training s": summary["training_seconds"],
            "CPU s": taken["cpu_seconds"],
            "GB": taken["peak_gb"],
        }

    def metrics(self) -> Iterator[dict[str, str]]:
        """The rows of metrics.csv."""
        with (self.directory / "metrics.csv").open() as file:
            yield from csv.DictReader(file)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """A held-out metric by optimizer step."""
        name = f"val/{SET}/{metric}"
        return [(int(row["step"]), float(row[name])) for row in self.metrics() if row[name]]

    def votes_difference(self, step: int) -> tuple[float, float]:
        """Weighted minus plain majority over the problems of the last evaluation, and its paired standard error."""
        lines: list[dict[str, Any]] = [json.loads(line) for line in (self.directory / "solutions/val.jsonl").open()]
        lines = [line for line in lines if line["step"] == step and line["dataset"] == SET]
        seen: dict[int, int] = {}
        samples = []
        for line in lines:
            samples.append(seen.setdefault(line["index"], 0))
            seen[line["index"]] += 1
        values = []
        for metric in (WeightedMajorityVote(), MajorityVote()):
            metric.update(
                torch.tensor([line["index"] for line in lines]),
                torch.tensor(samples),
                torch.tensor([line["reward"] for line in lines]),
                answer_ids([line["answer"] for line in lines]),
                torch.tensor([line["self_reward"] for line in lines]),
            )
            values.append(metric.per_problem()[1])
        difference = values[0] - values[1]
        return float(difference.mean()), float(standard_error(difference))


FORMATS = {
    "tokens per step": "{:,.0f}",
    "training s": "{:.0f}",
    "CPU s": "{:.0f}",
    "GB": "{:.2f}",
    "weighted - plain": "{:+.3f}",
}


def table(runs: list[Run]) -> str:
    """Markdown: a row per run, and for each method the mean over its seeds."""
    lines: list[str] = []
    for method in OVERLAYS:
        found = {run.seed: run.values() for run in runs if run.method == method}
        if not found:
            continue
        headings = list(next(iter(found.values())))
        if not lines:
            lines = ["| method | seed | " + " | ".join(headings) + " |", "| --- " * (len(headings) + 2) + "|"]
        means = {heading: statistics.mean(values[heading] for values in found.values()) for heading in headings}
        rows: list[tuple[str, dict[str, float]]] = [(str(seed), values) for seed, values in sorted(found.items())]
        for seed, values in [*rows, ("mean", means)]:
            cells = [FORMATS.get(heading, "{:.3f}").format(value) for heading, value in values.items()]
            lines.append(f"| {method} | {seed} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(runs: list[Run], path: Path) -> None:
    """Held-out pass@1, F1 and both AUROCs against the optimizer step, a line per run."""
    canvas = Figure(figsize=(16, 3.8), layout="constrained")
    panels = canvas.subplots(1, 4)
    for axes, heading in zip(panels, ("pass@1", "F1", "AUROC", "AUROC within"), strict=True):
        for run in runs:
            curve = run.curve(METRICS[heading])
            label = run.method if run.seed == 0 else None
            axes.plot(*zip(*curve, strict=True), color=COLOURS[run.method], marker="o", ms=3, lw=1.2, label=label)
        axes.set(title=f"{heading}, held-out problems", xlabel="optimizer step", ylim=(0, 1))
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    canvas.savefig(path, dpi=120)


def main() -> None:
    """Train what is missing; print the table and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs; finished ones are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=list(OVERLAYS), default=list(OVERLAYS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, of one thread each")
    options = parser.parse_args()
    runs = [
        Run(method, seed, options.out / f"{method.lower().replace(' ', '_')}_{seed}")
        for seed in range(options.seeds)
        for method in options.methods
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(Run.train, runs))
    figure(runs, options.out / "methods.png")
    print(table(runs))


if __name__ == "__main__":
    main()
