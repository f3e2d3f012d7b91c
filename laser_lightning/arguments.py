"""Parts of a run: they remember, as plain values, the arguments they were made with, for checkpoints to hold."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any, Self, TypeGuard, TypeVar

from laser_lightning.errors import UnusableFunctionError, UserError
from laser_lightning.old_settings import old_keys, renewed, unfolded

_Settings = TypeVar("_Settings")

FORM = {"class_path", "init_args"}
"""The keys by which a plain value stands for an object, as in configs."""


MADE_LATER = {"torch.optim.optimizer.Optimizer", "torch.optim.lr_scheduler.LRScheduler"}
"""Of these and what is derived from them an argument is the class and its arguments, and no object yet."""


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
    cls, arguments = made_later(value)
    if cls is not None:
        return _object(cls, {name: plain_form(item) for name, item in arguments.items()})
    raise NotPlain(getattr(value, "__name__", type(value).__name__))


def made_later(value: Any) -> tuple[type | None, dict[str, Any]]:
    """The class and the arguments of an optimizer, or a schedule, that is made once there are parameters to step.

    Args:
        value: the class itself, or a partial call of it, in the parser's form too.

    Returns:
        None, and no arguments, if it is anything else.
    """
    given: Any = value
    arguments: dict[str, Any] = {}
    if isinstance(value, partial):
        given, arguments = (value.func, *value.args)[-1], dict(value.keywords)  # the parser's has the class last
    return (given, arguments) if _is_made_later(given) else (None, {})


def _is_made_later(cls: Any) -> TypeGuard[type]:
    return isinstance(cls, type) and any(f"{base.__module__}.{base.__qualname__}" in MADE_LATER for base in cls.__mro__)


def _object(cls: type, arguments: dict[str, Any]) -> dict[str, Any]:
    if "<locals>" in cls.__qualname__:
        raise NotPlain(f"{cls.__name__}, a class within a function")
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


def made_from(value: Any) -> Any:
    """The value that a plain form stands for.

    Only parts and settings are made, and optimizers later on: a checkpoint of a stranger can name no other class.

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
    if _is_made_later(cls):
        return partial(cls, **made_from(value["init_args"]))
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


def import_function(path: str, who: str) -> Any:
    """Import what a path such as ``my_module.reward`` names.

    Args:
        path: the import path.
        who: whose function it is, as the subject of a sentence.

    Raises:
        UnusableFunctionError: it cannot be imported.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except Exception as error:
        raise UnusableFunctionError(
            f"{who} {path!r} cannot be imported ({type(error).__name__}: {error}); "
            "its module must be on the import path, for instance in the working directory."
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


def takes_old_fields(settings: str) -> Callable[[type[_Settings]], type[_Settings]]:
    """Lets settings be made with their fields of version 0.1, in Python too.

    Args:
        settings: their key in the model, such as ``advantage``.

    Returns:
        A decorator of a dataclass.
    """

    def decorate(cls: type[_Settings]) -> type[_Settings]:
        make = cls.__init__

        @wraps(make)
        def __init__(self: Any, *args: Any, **given: Any) -> None:  # noqa: N807
            old = {key: given.pop(key) for _, keys in [*old_keys(settings, given)] for key in keys}
            plain = {key: unfolded(plain_form(value)) for key, value in old.items()}
            make(self, *args, **given, **made_from(renewed(settings, plain)))

        cls.__init__ = __init__  # type: ignore[method-assign]
        return cls

    return decorate
