"""``laser-lightning check``: what works with a model, before anybody rents a GPU for it."""

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import TYPE_CHECKING

import yaml
from jsonargparse import ActionConfigFile, set_loader

from laser_lightning.cli.config_files import load_configs, yaml_value
from laser_lightning.cli.error_sentences import command_line_origins, overridden, sentence
from laser_lightning.cli.old_keys import old_options
from laser_lightning.cli.option_values import wrapped
from laser_lightning.cli.program import DEFAULT_CLASSES, PROGRAM, split_configs
from laser_lightning.cli.spelling import misspelt_key
from laser_lightning.errors import UserError

if TYPE_CHECKING:
    from laser_lightning.cli.model_check import Asked, Row

TRAINER_KEYS = ("accelerator", "devices", "num_nodes", "precision", "strategy")
"""Of the trainer's keys those that change how a step is computed."""

_WIDTH = 100
_HELP = f"""\
usage: {PROGRAM} check [--config CONFIG ...] --model.policy.path DIR [--KEY VALUE ...] [--json]

Tries a model on small random batches, and prints what works with it and what does not: loading, decoding, packing,
compiled steps, LoRA, exports, an optimizer step, vLLM. It takes the configs and options of `fit`, and uses of these
model.policy, model.engine and trainer.{{{",".join(TRAINER_KEYS)}}}.
Rows that these ask for are marked with *; the exit status is 1 if one of them does not work, and 0 otherwise.

options:
  -h, --help            Prints this.
  --json                Prints a list of rows as JSON in place of the table.
"""


def command(args: Sequence[str]) -> int:
    """``laser-lightning check --model.policy.path DIR``.

    Args:
        args: the words behind ``check``.

    Returns:
        Exit status: 0 when what the config asks for works, 1 otherwise.

    Raises:
        UserError: if the config is wrong.
    """
    if {"-h", "--help"} & set(args):
        print(_HELP, end="")
        return 0
    as_json = "--json" in args
    asked = read_asked([arg for arg in args if arg != "--json"])
    from lightning.pytorch.utilities import rank_zero_only

    from laser_lightning.cli.model_check import check_model
    from laser_lightning.cli.noise import leave_out_noise, shorten_library_bars

    leave_out_noise()
    shorten_library_bars()
    rows = []
    for row in check_model(asked):
        rows.append(row)
        if not as_json and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            print("\n".join(lines_of(row)), flush=True)
    if as_json and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        json.dump([asdict(row) for row in rows], sys.stdout, indent=1, ensure_ascii=False)
        print()
    return int(any(row.asked and not row.works for row in rows))


def lines_of(row: "Row") -> list[str]:
    """The lines of a row of the table."""
    head = f"{'*' if row.asked else ' '} {row.name:<23} {row.outcome:<8}"
    lines = textwrap.wrap(row.sentence, _WIDTH - len(head)) or [""]
    return [f"{head} {lines[0]}".rstrip(), *(" " * (len(head) + 1) + line for line in lines[1:])]


def read_asked(args: Sequence[str]) -> "Asked":
    """What a run with these configs and options would ask of its model.

    Args:
        args: configs and options of ``fit``.

    Raises:
        UserError: if a key or a value is wrong, or no model is named.
    """
    if any(arg.startswith("--print_config") for arg in args):
        raise UserError("check has no --print_config: `fit` prints the config that it uses.")
    configs, rest = split_configs(args)
    old, rest = old_options(rest)
    config = load_configs(configs, DEFAULT_CLASSES, old)
    if mistake := misspelt_key("fit", config, rest):
        raise UserError(mistake)
    from lightning.pytorch.strategies import Strategy

    from laser_lightning.cli.exact_parser import ExactParser
    from laser_lightning.cli.model_check import Asked
    from laser_lightning.policy.loading import PolicySettings
    from laser_lightning.rollout import RolloutEngine

    set_loader("yaml", yaml_value, exceptions=(yaml.YAMLError,))
    parser = ExactParser(prog=f"{PROGRAM} check", exit_on_error=False)
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_class_arguments(PolicySettings, "model.policy")
    parser.add_subclass_arguments(RolloutEngine, "model.engine")
    parser.add_argument("--trainer.accelerator", type=str, default="auto")
    parser.add_argument("--trainer.devices", type=list[int] | int | str, default="auto")
    parser.add_argument("--trainer.num_nodes", type=int, default=1)
    parser.add_argument("--trainer.precision", type=str | int | None, default=None)
    parser.add_argument("--trainer.strategy", type=str | Strategy, default="auto")
    options = [f"--config=# merged\n{_used_config(config.text)}", *_used_options(rest)]
    try:
        given = parser.instantiate(parser.parse_args(wrapped(options, parser._option_string_actions)))
    except argparse.ArgumentError as error:
        origins = overridden(config.origins, command_line_origins(rest))
        raise UserError(sentence(str(error), origins, list(parser.get_defaults().keys()))) from error
    return Asked(given.model.policy, given.model.engine, vars(given.trainer))


def _used_config(text: str) -> str:
    """The keys of a run's config that are used here, without ``init_args`` of the model."""
    values = yaml.load(text, Loader=yaml.BaseLoader)  # every scalar stays the text that it is
    model, trainer = values["model"].get("init_args", {}), values.get("trainer") or {}
    used = {
        "model": {key: model[key] for key in ("policy", "engine") if key in model},
        "trainer": {key: trainer[key] for key in TRAINER_KEYS if key in trainer},
    }
    return yaml.dump(used, sort_keys=False)


def _used_options(args: Sequence[str]) -> list[str]:
    """The options that are used here, each as one word."""
    words: list[str] = []
    for arg, following in zip_longest(args, args[1:], fillvalue=""):
        name, equals, value = arg.partition("=")
        key = name.removeprefix("--").replace("model.init_args.", "model.", 1)
        of_trainer = key.startswith("trainer.") and key.split(".")[1] in TRAINER_KEYS
        if name.startswith("--") and (of_trainer or key.startswith(("model.policy", "model.engine"))):
            words.append(f"--{key}={value if equals else following}")
    return words
