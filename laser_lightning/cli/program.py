"""What the command line is made of: its words, its own keys, and the classes that a config need not name.

Nothing here imports torch or Lightning, so that help and mistakes are told at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from laser_lightning.errors import UserError

PROGRAM = "laser-lightning"

TRAINER_COMMANDS = {
    "fit": "Trains; `--run_dir RUN --ckpt_path last` goes on with a run.",
    "validate": "Evaluates a model on the sets of data.val.",
    "test": "Evaluates a model on the sets of data.test.",
    "predict": "Writes solutions, self-rewards and votes for the sets of data.predict.",
}
"""Those that Lightning's trainer runs, from configs."""

OTHER_COMMANDS = {
    "check": ("laser_lightning.cli.check", "Tries a model, and says what of it works and what does not."),
    "export": ("laser_lightning.cli.export", "Writes a checkpoint's model as a directory that transformers loads."),
    "explain": ("laser_lightning.cli.explain", "Says why the verifier rewards a response as it does."),
    "score": ("laser_lightning.cli.score", "Writes the self-rewards and verdicts of solutions in a file."),
    "solve": ("laser_lightning.cli.solve", "Solves the problems of a file by several solutions and their vote."),
    "compare": ("laser_lightning.cli.compare", "Puts the last evaluations of runs beside each other."),
}
"""Module of each, with a function ``command(args)`` that may return an exit status, and what it does."""

# Below the configs of a run: single arguments of these parts can be given without naming their classes.
DEFAULT_MODEL = """
model:
  class_path: laser_lightning.LaSeRModule
  init_args:
    self_reward: {class_path: laser_lightning.LastTokenSelfReward}
    engine: {class_path: laser_lightning.rollout.TransformersEngine}
    policy_loss: {class_path: laser_lightning.losses.ClippedPolicyLoss}
"""

# Below every config, so that configs need to name a class only where it differs.
DEFAULT_CLASSES = f"{DEFAULT_MODEL}data: {{class_path: laser_lightning.data.PromptDataModule}}\n"

# The module itself evaluates before the first step, and its loader shards the prompts.
TRAINER_DEFAULTS = {
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "log_every_n_steps": 1,
    "enable_model_summary": False,  # ConsoleProgress says how many parameters are trained
}

OWN_KEYS = {
    "run_dir": "Directory of this run: metrics, config, checkpoints, figures. Give one to resume a run in place. "
    "Default: the next free runs/version_N. `trainer.logger: null` writes CSV and TensorBoard into it.",
    "allow_changes": "Keys, such as model.group_size, that may differ from the settings of the run that is resumed, "
    "although they change results.",
    "torch_threads": "CPU threads for torch; small models are often faster on 1. Default: torch's own choice.",
}
"""The keys that Lightning does not have, beside the slots of callbacks."""


def split_configs(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes the configs out of a command line, wherever they stand.

    Args:
        args: the words behind the program's name.

    Returns:
        The configs in order, and the other words.

    Raises:
        UserError: ``--config`` has no value.
    """
    configs = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    configs.add_argument("-c", "--config", action="append", default=[])
    try:
        given, rest = configs.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from error
    return given.config, rest


def find_classes_in_working_directory() -> None:
    """Puts the working directory on the import path, which a console script does not search."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
