"""``laser-lightning``: what can be answered at once is, before anything heavy is imported."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from laser_lightning import __version__
from laser_lightning.cli.default_callbacks import DEFAULT_CALLBACKS
from laser_lightning.cli.program import (
    DEFAULT_CLASSES,
    OTHER_COMMANDS,
    PROGRAM,
    TRAINER_COMMANDS,
    find_classes_in_working_directory,
    split_configs,
)
from laser_lightning.errors import UserError

_HELP = {"-h", "--help"}


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        args: arguments without the program's name; default: those of the process.

    Returns:
        Exit status: 0; 1 if `check` found what does not work; 2 for an error that the user can mend, told in one line
        on stderr; or 128 and the number of the signal that stopped the run.
    """
    find_classes_in_working_directory()
    args = list(sys.argv[1:] if args is None else args)
    try:
        return _answer(args)
    except UserError as error:
        print(f"{PROGRAM}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _answer(args: list[str]) -> int:
    if args and args[0] in OTHER_COMMANDS:
        return int(import_module(OTHER_COMMANDS[args[0]][0]).command(args[1:]) or 0)
    configs, rest = split_configs(args)
    command = rest[0] if rest else "nothing"
    if command in _HELP:
        from laser_lightning.cli.help import program_help

        print(program_help())
        return 0
    if command == "--version":
        print(f"{PROGRAM} {__version__}")
        return 0
    if command not in TRAINER_COMMANDS:
        raise UserError(_unknown_command(command))
    if _HELP & set(rest):
        from laser_lightning.cli.help import command_help

        print(command_help(command))
        return 0
    from laser_lightning.cli.config_files import load_configs
    from laser_lightning.cli.old_keys import old_options
    from laser_lightning.cli.spelling import misspelt_key

    old, rest = old_options(rest)
    if mistake := misspelt_key(command, load_configs(configs, DEFAULT_CLASSES + DEFAULT_CALLBACKS, old), rest[1:]):
        raise UserError(mistake)
    from laser_lightning.cli import trainer as cli

    return cli.main(args)


def _unknown_command(command: str) -> str:
    commands = [*TRAINER_COMMANDS, *OTHER_COMMANDS]
    close = get_close_matches(command, commands, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"the first word is {', '.join(commands[:-1])} or {commands[-1]}, not {command!r}{hint}"
