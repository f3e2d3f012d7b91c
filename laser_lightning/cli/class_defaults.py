"""What the arguments of a class are by default, as a config would give them."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, signature
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from laser_lightning.cli.exact_parser import configured

REQUIRED = object()
"""In the place of the default of an argument that has none."""


class Argument(NamedTuple):
    """An argument of a class.

    Attributes:
        default: as a config would give it; ``REQUIRED`` without one.
        settings: the dataclass whose fields stand below the argument's key; None for another kind of argument.
    """

    default: Any
    settings: type | None


def arguments_of(kind: Callable[..., Any]) -> dict[str, Argument]:
    """The arguments that a class takes by name, those that it passes on to its bases by ``**`` included.

    Args:
        kind: class, or function that makes an object.
    """
    found: dict[str, Argument] = {}
    for maker in _makers(kind):
        hints = _hints(maker)
        for parameter in _parameters(maker):
            if parameter.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL):
                default = REQUIRED if parameter.default is Parameter.empty else configured(parameter.default)
                found.setdefault(parameter.name, Argument(default, _settings(hints.get(parameter.name))))
    return found | _fields(kind)


def _makers(kind: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Constructors of a class and its bases, as far as each hands on what it does not know; a function itself."""
    for base in kind.__mro__ if isinstance(kind, type) else (kind,):
        maker = vars(base).get("__init__") if isinstance(base, type) else base
        if maker is None or base is object:
            continue
        yield maker
        if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in _parameters(maker)):
            return


def _parameters(maker: Callable[..., Any]) -> list[Parameter]:
    try:
        return list(signature(maker).parameters.values())
    except ValueError:  # of C code that does not tell
        return []


def _fields(kind: Any) -> dict[str, Argument]:
    """The fields of a dataclass, whose constructor hides the defaults that are made anew for each object."""
    found = {}
    hints = _hints(kind) if is_dataclass(kind) else {}
    for field in fields(kind) if hints else ():
        if field.init:
            made = REQUIRED if field.default is MISSING else configured(field.default)
            default = made if field.default_factory is MISSING else configured(field.default_factory())
            found[field.name] = Argument(default, _settings(hints[field.name]))
    return found


def _hints(of: Any) -> dict[str, Any]:
    try:
        return get_type_hints(of)
    except (NameError, TypeError):  # a name that only a type checker imports
        return {}


def _settings(hint: Any) -> type | None:
    """The dataclass that an annotation names, alone or beside None."""
    named = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return next((one for one in named if isinstance(one, type) and is_dataclass(one)), None)
