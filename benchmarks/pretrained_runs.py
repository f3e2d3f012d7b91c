"""What the table of a pretrained model is made of: files, presets, rows, and the commands that make them."""

import csv
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml
from methods_named import Method
from methods_phase import Phase
from methods_runs import Budget, Run
from pretrained_checks import write_supervised

from laser_lightning.cli.config_files import read_config
from laser_lightning.errors import UserError

SET = "word_problems"
"""Name of the held-out problems in the recipes."""

WARM_START, RECIPE = "recipes/word_problems_warm_start", "recipes/word_problems"

ROWS = {
    "laser": Method("LaSeR"),  # the recipe's objective is the paper's
    "judging": Method("LaSeR with judging updates", ("recipes/word_problems_judging",)),
    "grpo": Method("GRPO", ("baselines/grpo",)),
    "rise": Method("RISE", ("baselines/rise", "recipes/word_problems_rise")),
    "lora": Method("LaSeR, LoRA", ("recipes/word_problems_lora",)),
}
"""The rows of the table, by their short names."""


@dataclass(frozen=True)
class Preset:
    """How the recipes run on a machine.

    Attributes:
        threads: of torch.
        warm_start: words behind the supervised stage's config.
        overlays: configs over the recipe.
    """

    threads: int
    warm_start: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()


PRESETS = {
    "cpu": Preset(threads=2),  # the recipes are set for it
    "gpu": Preset(
        threads=8,
        warm_start=(
            "--trainer.accelerator=gpu",
            "--trainer.precision=bf16-mixed",
            "--trainer.max_steps=600",
            "--trainer.val_check_interval=200",
            "--model.micro_batch_sequences=16",
        ),
        overlays=("recipes/word_problems_gpu",),
    ),
}


@dataclass(frozen=True)
class Inputs:
    """The files of a table.

    Attributes:
        model: directory of the pretrained model.
        train: problems to train on.
        val: held-out problems.
    """

    model: Path
    train: Path
    val: Path

    def __post_init__(self) -> None:
        if not (self.model / "config.json").is_file():
            raise UserError(f"--model: {self.model} is no directory of a transformers model (it has no config.json).")
        for path in (self.train, self.val):
            if not path.is_file():
                raise UserError(f"--problems: there is no file {path}.")

    @cached_property
    def digests(self) -> dict[str, str]:
        """What tells them from others, wherever they lie."""
        model = hashlib.sha256((self.model / "config.json").read_bytes())
        for weights in sorted(self.model.glob("*.safetensors")):
            model.update(f"{weights.name} {weights.stat().st_size}".encode())
        files = {"train": self.train, "val": self.val}
        return {"model": model.hexdigest()} | {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
        }

    def words(self, model: Path, train: Path) -> tuple[str, ...]:
        """The options of a command that say where its files are.

        Args:
            model: what it trains.
            train: rows that it trains on.
        """
        problems = (f"--data.train.path={train}", f"--data.val.{SET}.path={self.val}")
        return (f"--model.policy.path={model}", *problems)


@dataclass(frozen=True)
class Job:
    """A command that stands beside the runs of the table, in their form.

    Attributes:
        name: for messages.
        directory: where it lies.
        training: the command.
        evaluations: none.
    """

    name: str
    directory: Path
    training: Phase
    evaluations: Mapping[str, Phase] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """All that is to be done for a table.

    Attributes:
        inputs: its files.
        out: directory of the runs.
        preset: how they run.
        rows: of the table.
        seeds: of each row; the supervised stage is one for all.
        steps: optimizer steps of a run; None for the recipe's.
        warm_start_options: further words for the supervised stage.
        options: further words for the runs.
    """

    inputs: Inputs
    out: Path
    preset: Preset
    rows: Sequence[Method]
    seeds: Sequence[int]
    steps: int | None = None
    warm_start_options: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @cached_property
    def warm_start(self) -> Job:
        """The supervised stage; it writes the rows that it reads."""
        directory, rows = self.out / "warm_start", self.out / "supervised.jsonl"
        write_supervised(self.inputs.train, rows)
        options = (f"--torch_threads={self.preset.threads}", *self.preset.warm_start, *self.warm_start_options)
        places = (*self.inputs.words(self.inputs.model, rows), "--run_dir", str(directory), "--ckpt_path", "auto")
        settings = {
            "configs": [yaml.safe_load(read_config(WARM_START))],
            "options": list(options),
            "inputs": self.inputs.digests | {"rows": hashlib.sha256(rows.read_bytes()).hexdigest()},
        }
        words = ("fit", "--config", WARM_START, *options, *places)
        return Job("supervised stage", directory, Phase("fit", directory / "phases", words, settings))

    @property
    def start(self) -> Path:
        """The model that all runs start from."""
        return self.out / "warm_start/export/last"

    @cached_property
    def runs(self) -> list[Run]:
        """Seeds in turn, so that a table can be printed after the first."""
        budget = Budget(
            RECIPE,
            self.steps,
            samples=8,
            options=self.options,
            overlays=self.preset.overlays,
            threads=self.preset.threads,
            places=self.inputs.words(self.start, self.inputs.train),
            inputs=self.inputs.digests,
            evaluations={},  # the one at the end of training has 8 solutions of each problem already
        )
        return [Run(row, seed, budget, self.out / f"{row.slug}_{seed}") for seed in self.seeds for row in self.rows]

    @cached_property
    def exports(self) -> list[Job]:
        """The checks of what the first seed's runs exported, of those rows whose score is LaSeR's."""
        chosen = (ROWS["laser"], ROWS["lora"])
        runs = [run for run in self.runs if run.method in chosen and run.seed == self.seeds[0]]
        return [self._export_check(run) for run in runs]

    def _export_check(self, run: Run) -> Job:
        script = str(Path(__file__).with_name("pretrained_exports.py"))
        words = (str(run.directory), str(self.inputs.val), *(("--adapter",) if run.method == ROWS["lora"] else ()))
        phase = Phase("exports", run.directory / "phases", words, run.training.settings, (sys.executable, script))
        return Job(f"{run.name}, its exports", run.directory, phase)

    def left(self) -> Iterator[str]:
        """What is done and what is left, a line for each command."""
        for job in (self.warm_start, *self.runs, *self.exports):
            yield f"{job.name}: {_state(job)}"


def _state(job: Job | Run) -> str:
    """``done``, ``step 30 of 200`` or ``not begun``."""
    if job.training.done:
        return "done"
    metrics, config = job.directory / "metrics.csv", job.directory / "config.yaml"
    if job.training.name != "fit" or not (metrics.exists() and config.exists()):
        return "not begun"
    with metrics.open(encoding="utf-8", newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row.get("step")]
    total = yaml.safe_load(config.read_text(encoding="utf-8"))["trainer"]["max_steps"]
    return f"step {max(steps, default=0)} of {total}"


def by_kind(methods: Mapping[str, Sequence[Run]]) -> str:
    """A table of pass@1 by kind of problem at the end of training, means over seeds.

    Args:
        methods: the trained runs of each row, by its name.
    """
    prefix = "pass@1/"
    ends = {
        name: [json.loads((run.directory / "summary.json").read_text())["end"]["sets"][SET] for run in runs]
        for name, runs in methods.items()
    }
    kinds = sorted(
        {key.removeprefix(prefix) for sets in ends.values() for one in sets for key in one if key.startswith(prefix)}
    )
    lines = ["| method | " + " | ".join(kinds) + " |", "| --- |" + " ---: |" * len(kinds)]
    for name, sets in ends.items():
        means = [sum(one[prefix + kind] for one in sets) / len(sets) for kind in kinds]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    return "pass@1 by kind of problem, at the end of training:\n\n" + "\n".join(lines)
