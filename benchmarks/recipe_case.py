"""A training step of `recipes/word_problems`, and what another trainer needs to know to take the same one."""

import json
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from common import Case

from laser_lightning.cli.config_files import load_configs
from laser_lightning.data import FileSource, PromptTemplate
from laser_lightning.verifiers import ExactVerifier, Verifier

RECIPE = "recipes/word_problems"


@dataclass(frozen=True)
class RecipeCase(Case):
    """A setting of a training step that a packaged recipe has besides: model, template, verifier and optimizer.

    Attributes:
        problems: JSON lines with the columns problem and answer, which are taken in their order.
        overlays: configs over the recipe.
    """

    problems: str = ""
    overlays: tuple[str, ...] = ()

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The recipe with its overlays."""
        return dict(yaml.safe_load(load_configs([RECIPE, *self.overlays]).text))

    @property
    def data_settings(self) -> dict[str, Any]:
        """The source and the template of the prompts."""
        template = self.recipe["data"]["init_args"]["template"]
        return {"train": FileSource(self.problems), "template": PromptTemplate(**template)}

    @property
    def learning_rate(self) -> float:
        """Of AdamW."""
        return float(self.recipe["model"]["init_args"]["optimizer"]["learning_rate"])

    @property
    def verifier(self) -> Verifier:
        """Gives the rewards."""
        return ExactVerifier(**self.recipe["model"]["init_args"]["verifier"]["init_args"])

    def words(self, model: Path, run_dir: str) -> list[str]:
        """The command that trains it: nothing is evaluated, and neither logs nor checkpoints are written.

        Args:
            model: directory of the model.
            run_dir: takes the run's config.
        """
        settings: dict[str, object] = {
            "run_dir": run_dir,
            "torch_threads": self.threads,
            "model.policy.path": model,
            "model.policy.dtype": self.dtype,
            "model.group_size": self.group_size,
            "model.sampling.max_response_tokens": self.response_tokens,
            "data.train.path": self.problems,
            "data.val.word_problems.path": self.problems,
            "data.prompts_per_step": self.prompts,
            "data.shuffle": "false",
            "trainer.max_steps": self.steps,
            "trainer.limit_val_batches": 0,
            "trainer.logger": "false",
            "trainer.enable_progress_bar": "false",
        }
        settings |= dict.fromkeys(("checkpoint", "export", "solution_log", "figures", "summary"), "null")
        configs = [word for name in (RECIPE, *self.overlays) for word in ("--config", name)]
        return ["fit", *configs, *(f"--{key}={value}" for key, value in settings.items())]


def recipe_of_child() -> tuple[RecipeCase, Path]:
    """What the parent put on the command line of this process."""
    return RecipeCase(**json.loads(sys.argv[1])), Path(sys.argv[2])
