"""The README's table and figure: LaSeR and GRPO on the embedded task, the quickstart's settings, three seeds each.

    python benchmarks/quickstart.py --out runs/quickstart

A seed sets the training problems and all sampling; all runs start from the embedded model and are evaluated on the same
held-out problems, which training cannot contain.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from laser_lightning.metrics import MajorityVote, WeightedMajorityVote, answer_ids, standard_error

CONFIGS = {"LaSeR": [], "GRPO": ["--config", "baselines/grpo"]}
SET = "arithmetic"
ROWS = ("pass@1", "maj@8", "weighted_maj@8", "best_of@8", "self_verification/f1", "self_verification/auroc")


def run(name: str, seed: int, directory: Path) -> float:
    """Train once, unless that was done; return the peak memory in GB."""
    memory = directory / "peak_memory_gb.txt"
    if not memory.exists():
        command = [sys.executable, "-m", "laser_lightning", "fit", "--config", "quickstart", *CONFIGS[name]]
        seeds = ["seed_everything", "model.seed", "data.seed", "data.train.init_args.seed"]
        command += [f"--{key}={seed}" for key in seeds] + ["--run_dir", str(directory)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"The run {name}, seed {seed}, failed: {' '.join(command)}")
        memory.write_text(f"{usage.ru_maxrss / 1e6:.2f}")
    return float(memory.read_text())


def votes_difference(directory: Path, step: int) -> tuple[float, float]:
    """Weighted minus plain majority over the problems of the last evaluation, and its paired standard error."""
    lines = [json.loads(line) for line in (directory / "solutions/val.jsonl").open()]
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


def table(results: dict[tuple[str, int], dict[str, Any]]) -> str:
    """Markdown: a row per run."""
    heads = ["pass@1 before", "pass@1", "change", *ROWS[1:], "weighted - plain (s.e.)", "training s", "GB"]
    lines = ["| method | seed | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 2) + "|"]
    for (name, seed), result in results.items():
        start, end = result["start"]["sets"][SET], result["end"]["sets"][SET]
        cells = [f"{start['pass@1']:.3f}", f"{end['pass@1']:.3f}", f"{end['pass@1'] - start['pass@1']:+.3f}"]
        cells += [f"{end[row]:.3f}" for row in ROWS[1:]]
        cells += ["{:+.3f} ({:.3f})".format(*result["votes"])]
        cells += [f"{result['training_seconds']:.0f}", f"{result['memory']:.2f}"]
        lines.append(f"| {name} | {seed} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(directories: dict[tuple[str, int], Path], path: Path) -> None:
    """Held-out pass@1, F1 and AUROC against the optimizer step, a line per run."""
    canvas = Figure(figsize=(12, 3.6), layout="constrained")
    colours = {"LaSeR": "#0072B2", "GRPO": "#D55E00"}
    panels = {"pass@1": "pass@1", "self_verification/f1": "self-verification F1", "self_verification/auroc": "AUROC"}
    for axes, (metric, title) in zip(canvas.subplots(1, 3), panels.items(), strict=True):
        for (name, seed), directory in directories.items():
            rows = list(csv.DictReader((directory / "metrics.csv").open()))
            points = [(int(r["step"]) + 1, float(r[f"val/{SET}/{metric}"])) for r in rows if r[f"val/{SET}/{metric}"]]
            points[0] = (0, points[0][1])
            axes.plot(
                *zip(*points, strict=True), color=colours[name], marker="o", ms=3, label=name if not seed else None
            )
        axes.set(title=f"{title}, held-out problems", xlabel="optimizer step", ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend()
    canvas.savefig(path, dpi=120)


def main() -> None:
    """Train what is missing; print the table and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs; finished ones are kept")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    results: dict[tuple[str, int], dict[str, Any]] = {}
    directories: dict[tuple[str, int], Path] = {}
    for seed in range(options.seeds):
        for name in CONFIGS:
            directory = directories[name, seed] = options.out / f"{name.lower()}_{seed}"
            memory = run(name, seed, directory)
            result = json.loads((directory / "summary.json").read_text())
            votes = votes_difference(directory, result["end"]["step"])
            results[name, seed] = {**result, "memory": memory, "votes": votes}
            print(f"{name}, seed {seed}: done", file=sys.stderr)
    results = {key: results[key] for key in sorted(results, reverse=True, key=lambda key: (key[0], -key[1]))}
    figure(directories, options.out / "quickstart.png")
    print(table(results))


if __name__ == "__main__":
    main()
