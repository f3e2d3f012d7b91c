"""Help, read from source files and packaged configs, so that it is there at once."""

import ast
import textwrap
from collections.abc import Iterator, Mapping
from itertools import takewhile

from docstring_parser import parse

from laser_lightning.cli.config_files import packaged_names, read_config
from laser_lightning.cli.default_callbacks import CALLBACK_SLOTS
from laser_lightning.cli.program import (
    OTHER_COMMANDS,
    OWN_KEYS,
    PROGRAM,
    TRAINER_COMMANDS,
    TRAINER_DEFAULTS,
)
from laser_lightning.cli.source_classes import SourceArgument, SourceClass, Sources
from laser_lightning.cli.spelling import TRAINER, command_arguments

_WIDTH = 110
_CONFIGS = """\
A config is a YAML file, or the name of a packaged one. Several are overlaid in order, and options on the command line
override them all; `null` switches a slot off and takes a named set out."""
_CLASSES = """\
Arguments of any other class, one of yours too: --model.help laser_lightning.RISEModule,
--data.train.help laser_lightning.data.FileSource, --checkpoint.help my_file.MyCallback."""


def program_help() -> str:
    """The commands, and the packaged configs."""
    commands = TRAINER_COMMANDS | {name: text for name, (_, text) in OTHER_COMMANDS.items()}
    configs = {name: _first_comment(name) for name in packaged_names()}
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND ...",
            "",
            "Trains language models that grade themselves.",
            "",
            f"commands (`{PROGRAM} COMMAND --help` lists the options of one):",
            *_columns(commands),
            "",
            "options:",
            *_columns({"-h, --help": "Prints this.", "--version": "Prints the version."}),
            "",
            *_CONFIGS.splitlines(),
            f"For instance: {PROGRAM} fit --config quickstart --trainer.max_steps 5",
            "",
            "packaged configs:",
            *_columns(configs),
        ]
    )


def command_help(command: str) -> str:
    """The keys of a command that the trainer runs.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
    """
    sources = Sources()
    trainer = sources.find_class(TRAINER)
    own = {
        "-c, --config CONFIG": "A YAML file, or the name of a packaged config; repeatable.",
        "--print_config": "Prints the whole config, with comments, and ends.",
        "--seed_everything INT": "Seed of everything random.",
        **{f"--{key} {key.upper()}": text for key, text in OWN_KEYS.items()},
    }
    slots = {f"--{name} CLASS": f"{slot.help} null switches it off." for name, slot in CALLBACK_SLOTS.items()}
    lines = [
        f"usage: {PROGRAM} {command} --config CONFIG [--config CONFIG ...] [--KEY VALUE ...]",
        "",
        TRAINER_COMMANDS[command],
        "",
        *_CONFIGS.splitlines(),
        f"packaged ones: {', '.join(packaged_names())}.",
        "",
        "options:",
        *_columns(own),
        *_keys(sources, command_arguments(sources, command) or {}, "", command),
        "",
        "callbacks, each the class_path of one, and its arguments below that key:",
        *_columns(slots),
    ]
    for key, path in (
        ("model", "laser_lightning.LaSeRModule"),
        ("data", "laser_lightning.data.PromptDataModule"),
        ("trainer", TRAINER),
    ):
        found = trainer if path == TRAINER else sources.find_class(path)
        arguments = (found and sources.arguments(found)) or {}
        default = "" if path == TRAINER else f" of {path} (--{key} CLASS names another)"
        lines += ["", f"{key}{default}:", *_keys(sources, arguments, f"{key}.")]
    return "\n".join([*lines, "", *_CLASSES.splitlines()])


def _keys(
    sources: Sources, arguments: Mapping[str, SourceArgument], prefix: str, function: str = "__init__"
) -> Iterator[str]:
    """A line on each argument, and lines on the fields of those that are dataclasses."""
    for name, argument in arguments.items():
        group = sources.class_of(argument)
        fields = sources.arguments(group) if group is not None and group.is_dataclass else None
        text = _documented(argument.owner, function).get(name, "")
        if fields:
            yield f"  --{prefix}{name}: {text}"
            yield from _keys(sources, fields, f"{prefix}{name}.")
            continue
        kind = ast.unparse(argument.annotation).strip("'") if argument.annotation else "value"
        default = ast.unparse(argument.default) if argument.default else "required"
        if prefix == "trainer.":
            default = str(TRAINER_DEFAULTS.get(name, default))
        kind = kind.removeprefix("Optional[").removesuffix("]") if kind.startswith("Optional[") else kind
        yield f"  --{prefix}{name} ({kind.removesuffix(' | None')}; {_yaml(default)})"
        yield from textwrap.wrap(text, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)


def _documented(owner: SourceClass, function: str) -> dict[str, str]:
    """First sentences of the docstring on each argument."""
    method = owner.function(function)
    texts = [ast.get_docstring(node) for node in (owner.node, method) if node is not None]
    described = [item for text in texts if text for item in parse(text).params]
    return {item.arg_name: _first_sentence(item.description or "") for item in described}


def _first_sentence(text: str) -> str:
    joined = " ".join(text.split()).replace("``", "")
    end = joined.find(". ")
    return joined if end < 0 else joined[: end + 1]


def _yaml(default: str) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(default, default)


def _first_comment(name: str) -> str:
    """The first sentence of the comment at a config's head."""
    lines = takewhile(lambda line: line.startswith("#"), read_config(name).splitlines())
    return _first_sentence(" ".join(line.removeprefix("#").strip() for line in lines))


def _columns(entries: Mapping[str, str]) -> list[str]:
    width = max(len(name) for name in entries) + 4
    lines = []
    for name, text in entries.items():
        wrapped = textwrap.wrap(text, _WIDTH + 10 - width) or [""]
        lines += [f"  {name:<{width - 2}}{wrapped[0]}".rstrip(), *(" " * width + line for line in wrapped[1:])]
    return lines
