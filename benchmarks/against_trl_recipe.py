"""The recipe `word_problems` on a given model: TRL's fastest settings, and then its steps and ours in turn."""

import statistics
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common import Worker, median_ratio, table
from pretrained_runs import ROWS
from recipe_case import RecipeCase
from turns import Steps, take_turns

PARTS = (2, 4, 8, 16)
"""Parts of TRL's step that are tried."""

FURTHER: Mapping[str, dict[str, Any]] = {
    "solutions drawn part by part": {"steps_per_generation": 1},
    "static cache": {"cache_implementation": "static"},
    "continuous batching": {"use_transformers_continuous_batching": True},
    "torch.compile": {"torch_compile": True},
    "gradient checkpointing": {"gradient_checkpointing": True},
}
"""What is tried with the fastest number of parts, each alone. (Liger's kernels are for GPUs.)"""

TRL = "TRL's GRPOTrainer"
TRIAL_HEADS = ["TRL's settings", "seconds a step", "peak GB"]
HEADS = ["trainer", "solutions/s", "seconds a step (range)", "rollout", "update", "judging", "TRL's time / its (range)"]
HEADS += ["of CPU time", "mean length", "solved", "peak GB of steps", "before them", "parameters, M", "optimizer, GB"]


@dataclass(frozen=True)
class Settings:
    """How TRL takes a step.

    Attributes:
        parts: that the step is split into.
        name: of the further settings.
        further: settings of GRPOConfig.
    """

    parts: int
    name: str = ""
    further: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.parts} parts" + (f", {self.name}" if self.name else "")

    def of(self, case: RecipeCase) -> RecipeCase:
        """The case with these settings."""
        return replace(case, accumulation=self.parts, trl_settings=dict(self.further))


def fastest(case: RecipeCase, model: Path, steps: int, say: Callable[[str], None]) -> Settings:
    """Try settings of TRL, each in a process of its own behind one step that warms up.

    Args:
        case: what is trained.
        model: directory of the model.
        steps: of each.
        say: gets a row of the table when it is ready.
    """
    tried: list[tuple[float, Settings]] = []

    def attempt(settings: Settings) -> None:
        with tempfile.TemporaryDirectory() as logs:
            try:
                worker = Worker("trl_recipe_step.py", settings.of(case), model, Path(logs))
                taken = take_turns({TRL: worker}, steps, 0, steps)[TRL]
            except SystemExit as failure:  # not all work on every machine
                say(row(str(settings), "fails", str(failure).strip().splitlines()[-1]))
                return
        seconds = statistics.median(step["seconds"] for step in taken[1:])
        tried.append((seconds, settings))
        say(row(str(settings), f"{seconds:.2f}", f"{peak(taken):.2f}"))

    def best() -> Settings:
        return min(tried, key=lambda one: one[0])[1]

    say(table(TRIAL_HEADS, []))
    for parts in PARTS:
        if case.solutions % parts == 0:
            attempt(Settings(parts))
    if not tried:
        raise SystemExit("TRL takes no step with any of these settings.")
    parts = best().parts
    for name, further in FURTHER.items():
        attempt(Settings(parts, name, further))
    return best()


def compare(
    case: RecipeCase, model: Path, settings: Settings, rows: list[str], pairs: int, seconds: float, warm_up: int
) -> str:
    """A table of the steps that TRL and the rows took in turn.

    Args:
        case: what is trained.
        model: directory of the model.
        settings: TRL's.
        rows: of ``pretrained_runs.ROWS``.
        pairs: least steps of each.
        seconds: further steps begin within this time.
        warm_up: steps of each before.
    """
    with tempfile.TemporaryDirectory() as directory:
        logs = Path(directory)
        workers = {TRL: Worker("trl_recipe_step.py", settings.of(case), model, logs)}
        for name in rows:
            ours = replace(case, overlays=ROWS[name].overlays)
            workers[ROWS[name].name] = Worker("recipe_step.py", ours, model, logs)
        steps = take_turns(workers, pairs, seconds, case.steps - warm_up, warm_up)
    for name, taken in steps.items():
        if any(step["solutions"] != case.solutions for step in taken):
            raise SystemExit(f"{name}: a step had another number of solutions than asked for.")
        if [step["prompt_tokens"] for step in taken] != [step["prompt_tokens"] for step in steps[TRL]]:
            raise SystemExit(f"{name}: its prompts have other lengths than TRL's: the two see other tokens.")
    return table(HEADS, [cells(name, taken, steps[TRL], warm_up, case.solutions) for name, taken in steps.items()])


def peak(steps: Steps) -> float:
    """The most memory that a process held in its steps, in GB."""
    return max(step["memory"] for step in steps)


def cells(name: str, taken: Steps, of_trl: Steps, warm_up: int, solutions: int) -> list[str]:
    """A row of the table."""
    steps, trl = taken[warm_up:], of_trl[warm_up:]

    def of(key: str, of_steps: Steps = steps) -> list[float]:
        return [step[key] for step in of_steps]

    seconds = of("seconds")
    ratios = [theirs / ours for theirs, ours in zip(of("seconds", trl), seconds, strict=True)]
    return [
        name,
        f"{solutions / statistics.median(seconds):.2f}",
        f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})",
        *(
            f"{statistics.median(of(part)):.2f}" if part in steps[0] else ""
            for part in ("rollout", "update", "judging")
        ),
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        f"{median_ratio(of('cpu_seconds', trl), of('cpu_seconds')):.2f}",
        f"{sum(of('tokens')) / (len(steps) * solutions):.1f}",
        f"{statistics.mean(of('reward')):.2f}",
        f"{peak(taken):.2f}",
        f"{taken[0]['loaded']:.2f}",
        f"{steps[-1]['parameters'] / 1e6:.2f}",
        f"{steps[-1]['optimizer_gb']:.2f}",
    ]


def row(*cells: str) -> str:
    """A row of a markdown table."""
    return f"| {' | '.join(cells)} |"
