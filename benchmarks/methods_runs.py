"""The runs of the table: what is trained and evaluated for a method and a seed, and where it lies."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from methods_named import Method
from methods_phase import Phase, Taken

from laser_lightning.cli.config_files import read_config
from laser_lightning.errors import UserError

VOTES = "eval/votes"
"""Below every method's overlays: all vote rules, and which of them is best on the training problems."""

EVALUATIONS = {"validate": "val", "test": "test"}
"""Commands behind the training, and the sets of the config that they evaluate."""


@dataclass(frozen=True)
class Budget:
    """What all runs of a table share.

    Attributes:
        config: name or path of the common config.
        steps: optimizer steps; None for the config's.
        samples: solutions per problem in the evaluations behind the training.
        options: further words for every command, such as ``--data.prompts_per_step=4``.
        overlays: names or paths of configs over the common one, below every method's.
        threads: of each process.
        places: further words that say where files are, which may be moved.
        inputs: digests of these files, by what they are.
        evaluations: as ``EVALUATIONS``, which of its commands follow the training.
    """

    config: str
    steps: int | None
    samples: int
    options: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()
    threads: int = 1
    places: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    evaluations: Mapping[str, str] = field(default_factory=lambda: EVALUATIONS)


@dataclass(frozen=True)
class Run:
    """The runs of one method with one seed, in a directory of their own.

    Attributes:
        method: what is trained.
        seed: of the training problems and all sampling.
        budget: what it shares with the others.
        directory: of the training run; evaluations are below.
    """

    method: Method
    seed: int
    budget: Budget
    directory: Path

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.method.name}, seed {self.seed}"

    @cached_property
    def training(self) -> Phase:
        """The training, which goes on from its last checkpoint."""
        steps = () if self.budget.steps is None else (f"--trainer.max_steps={self.budget.steps}",)
        return self._phase("fit", "fit", steps, ("--run_dir", str(self.directory), "--ckpt_path", "auto"))

    @cached_property
    def evaluations(self) -> dict[str, Phase]:
        """Those of the trained policy with more solutions, by set: ``val`` and ``test``."""
        return {name: self._evaluation(command, name) for command, name in self.budget.evaluations.items()}

    def folder_of(self, evaluation: str) -> Path:
        """Where an evaluation of the trained policy lies: ``val`` or ``test``."""
        return self.directory / f"{evaluation}_{self.budget.samples}"

    def _evaluation(self, command: str, name: str) -> Phase:
        folder = self.folder_of(name)
        samples = (f"--model.evaluation.samples={self.budget.samples}",)
        places = ("--run_dir", str(folder), "--ckpt_path", str(self.directory / "checkpoints/last.ckpt"))
        return self._phase(folder.name, command, samples, places)

    def _phase(self, name: str, command: str, own: tuple[str, ...], places: tuple[str, ...]) -> Phase:
        configs = (self.budget.config, *self.budget.overlays, VOTES, *self.method.overlays)
        options = (
            f"--seed_everything={self.seed}",
            f"--torch_threads={self.budget.threads}",
            *own,
            *self.budget.options,
        )
        words = (
            command,
            *(word for config in configs for word in ("--config", config)),
            *options,
            *self.budget.places,
            *places,
        )
        contents = [yaml.safe_load(read_config(config)) for config in configs]  # later ones win: their order counts
        inputs = {"inputs": dict(self.budget.inputs)} if self.budget.inputs else {}
        settings = json.loads(json.dumps({"configs": contents, "options": options} | inputs))
        return Phase(name, self.directory / "phases", words, settings)

    # ------------------------------------------------------------- what it left

    @property
    def taken(self) -> Taken:
        """What the training took."""
        return self.training.taken

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The run's own ``summary.json``.

        Raises:
            UserError: it cannot be read, or has no evaluation of the run's start or of its end.
        """
        path = self.directory / "summary.json"
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): delete {self.directory} to train it again.") from error
        if missing := [moment for moment in ("start", "end") if not found.get(moment)]:
            raise UserError(
                f"{path} has no evaluation of the run's {' and '.join(missing)}: leave model.evaluation.at_start and "
                "at_end as they are."
            )
        return found

    def metrics(self) -> Iterator[dict[str, str]]:
        """The rows of its ``metrics.csv``."""
        with (self.directory / "metrics.csv").open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """A metric by optimizer step, where it was measured.

        Args:
            metric: its whole name, such as ``val/arithmetic/pass@1``.
        """
        return [(int(row["step"]), float(row[metric])) for row in self.metrics() if row.get(metric)]
