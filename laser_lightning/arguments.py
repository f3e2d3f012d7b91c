"""Parts of a run: they remember, as plain values, the arguments they were made with, for checkpoints to hold."""

import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from laser_lightning.errors import UserError

FORM = {"class_path", "init_args"}
"""The keys by which a plain value stands for an object, as in configs."""


class NotPlain(Exception):  # noqa: N818
    """A value that has no plain form; the message says what it is."""


class Part:
    """A part of a run that ``class_path`` names. It remembers its arguments in their plain form.

    The form is taken when the part is made: numbers, texts, lists and mappings as they are, settings (dataclasses) and
    other parts as a class path with arguments. What else there is, such as a function, has no plain form.
    """

    _plain_arguments: dict[str, Any]
    _other_arguments: dict[str, str]

    @property
    def plain_arguments(self) -> dict[str, Any]:
        """The arguments that were given and have a plain form, by name."""
        return self._plain_arguments

    @property
    def other_arguments(self) -> dict[str, str]:
        """Of the rest, by name, what they are."""
        return self._other_arguments

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Take down the arguments, and make the object as usual."""
        part = super().__new__(cls)
        plain: dict[str, Any] = {}
        other: dict[str, str] = {}
        for name, value in _by_name(cls, args, kwargs).items():
            try:
                plain[name] = plain_form(value)
            except NotPlain as error:
                other[name] = str(error)
        part.__dict__.update(_plain_arguments=plain, _other_arguments=other)
        return part


def _by_name(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    try:
        given = signature.bind_partial(None, *args, **kwargs).arguments
    except TypeError:
        return {}  # `__init__` is about to say what is wrong
    given.pop(next(iter(signature.parameters)), None)  # self
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(parameter.name, {})
    return given


def plain_form(value: Any) -> Any:
    """The plain form of a value, which ``made_from`` turns back into an equal one.

    Raises:
        NotPlain: if it has none.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Path):
        return str(value)
    if type(value) in (list, tuple):
        return type(value)(plain_form(item) for item in value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value) and set(value) != FORM:
        return {key: plain_form(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        arguments = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return _object(type(value), {name: plain_form(item) for name, item in arguments.items()})
    if isinstance(value, Part) and hasattr(value, "_plain_arguments"):
        for name, what in value.other_arguments.items():
            raise NotPlain(f"{type(value).__name__} with {name} = {what}")
        return _object(type(value), value.plain_arguments)
    raise NotPlain(getattr(value, "__name__", type(value).__name__))


def _object(cls: type, arguments: dict[str, Any]) -> dict[str, Any]:
    if "<locals>" in cls.__qualname__:
        raise NotPlain(f"{cls.__name__}, a class within a function")
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


def made_from(value: Any) -> Any:
    """The value that a plain form stands for.

    Only parts and settings are made: a checkpoint of a stranger can name no other class.

    Raises:
        UserError: if it names a class that cannot be imported, or that is neither a part nor settings.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(made_from(item) for item in value)
    if not isinstance(value, dict):
        return value
    if set(value) != FORM:
        return {key: made_from(item) for key, item in value.items()}
    cls = _imported(value["class_path"])
    if not (isinstance(cls, type) and (issubclass(cls, Part) or is_dataclass(cls))):
        raise UserError(f"The checkpoint names {value['class_path']}, which is neither a part nor settings of a run.")
    return cls(**made_from(value["init_args"]))


def _imported(class_path: str) -> Any:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"The checkpoint was made with {class_path}, which cannot be imported here ({error}): put its file into "
            "the working directory, or give the argument that it belongs to again."
        ) from error


class Stateful:
    """A part that may remember something from one step to the next, which a resumed run goes on with."""

    def state_dict(self) -> dict[str, Any]:
        """What checkpoints keep of it: tensors and plain values, the same on all ranks. Nothing by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Args:
            state: as it was saved; empty if there was none.
        """
