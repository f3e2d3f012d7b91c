"""The parser of the program: values arrive, and are printed, as they were written; defaults may be parts."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from laser_lightning.arguments import Part
from laser_lightning.cli.option_values import arrived, requoted, unwrapped


class ExactParser(LightningArgumentParser):
    """A parser without abbreviated options, whose values arrive, and are printed, as they were written.

    The parsers that it makes for the arguments of classes are of the same kind.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Adds an argument, whose default may be a part: configs then show it with its arguments."""
        return super().add_argument(*args, **_with_plain_default(kwargs))

    def set_defaults(self, *args: dict[str, Any], **kwargs: Any) -> None:
        """Sets defaults, which may be parts."""
        super().set_defaults(*map(configured, args), **configured(kwargs))

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """Parses; a value within a class comes wrapped, and is taken out where its key is."""
        return super().parse_args(arrived(args or (), self._option_string_actions), *rest, **kwargs)

    def parse_object(self, cfg_obj: Any, *rest: Any, **kwargs: Any) -> Any:
        """Parses the arguments of a class, which may be wrapped too."""
        given = vars(cfg_obj) if isinstance(cfg_obj, Namespace) else cfg_obj
        for key, value in list(given.items()):
            if (text := unwrapped(value)) is not value:
                cfg_obj[key] = text
        return super().parse_object(cfg_obj, *rest, **kwargs)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Writes a config to a file. It was parsed, and validating it again would take as long."""
        super().save(*args, **{"skip_validation": True, **kwargs})

    def dump(self, *args: Any, with_comments: bool = False, **kwargs: Any) -> str:
        """Writes a config, with the quotes that its texts need."""
        text = super().dump(*args, with_comments=with_comments, **kwargs)
        return requoted(text, super().dump(*args, **kwargs | {"skip_validation": True})) if with_comments else text


def _with_plain_default(arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments | {"default": configured(arguments["default"])} if "default" in arguments else arguments


def configured(value: Any) -> Any:
    """A default as a config would give it: parts by class path, settings by their fields."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Part):
        kind = type(value)
        return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": configured(value.plain_arguments)}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: configured(getattr(value, field.name)) for field in fields(value) if field.init}
    if isinstance(value, dict):
        return {key: configured(item) for key, item in value.items()}
    return [configured(item) for item in value] if isinstance(value, (list, tuple)) else value
