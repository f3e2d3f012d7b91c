"""Texts that stay what they are, from the command line to the run and into the configs that are printed and saved.

Three habits of jsonargparse 4.53 change texts. Of an option inside of a class it reads the value as YAML before it
knows the type, and hands on what Python prints of the result: ``Note: be brief`` became ``{'Note': 'be brief'}`` and
``null`` became ``None``. What YAML takes for nothing, such as ``# {problem}``, became null. And texts such as ``1e5``
were written without the quotes that they need to be read as texts again.

What is null where null is allowed stays null, even in quotes: a text ``null`` can be given only where null cannot.
"""

from collections.abc import Mapping
from functools import wraps
from inspect import isclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from jsonargparse import _typehints, set_dumper, set_loader
from jsonargparse._loaders_dumpers import dump_yaml_kwargs, get_yaml_default_loader
from jsonargparse._util import NestedArg, parse_value_or_config
from ruamel.yaml.representer import RoundTripRepresenter

from laser_lightning.config_files import yaml_value

_check_type = _typehints.ActionTypeHint._check_type


def keep_texts() -> None:
    """Mend the parsers and dumpers of this process."""
    set_loader("yaml", yaml_value, exceptions=(yaml.YAMLError,))
    set_dumper("yaml", _dump)
    RoundTripRepresenter.add_representer(str, _represent_text)  # of the configs that are printed with comments
    _typehints.parse_value_or_config = _read_where_the_type_is_known
    _typehints.ActionTypeHint._check_type = _check_type_of_entries  # type: ignore[method-assign, assignment]


class _Dumper(yaml.SafeDumper):
    """Quotes every text that the command line would read as something else."""


# PyYAML itself writes 1e5 without quotes, which jsonargparse reads as a number.
for _letter, _resolvers in get_yaml_default_loader().yaml_implicit_resolvers.items():
    for _tag, _pattern in _resolvers:
        _Dumper.add_implicit_resolver(_tag, _pattern, [_letter])


def _dump(data: Any) -> str:
    return yaml.dump(data, Dumper=_Dumper, **dump_yaml_kwargs)


def _represent_text(representer: Any, text: str) -> Any:
    """A scalar of ruamel.yaml, which knows YAML 1.2 alone and would write ``yes`` without quotes."""
    tag = "tag:yaml.org,2002:str"
    is_text = _Dumper("").resolve(yaml.ScalarNode, text, (True, False)) == tag
    return representer.represent_scalar(tag, text, style=None if is_text else "'")


def _read_where_the_type_is_known(value: Any, enable_path: bool = True, simple_types: bool = False) -> Any:
    """Leaves the value of an option inside of a class to that class's own parser."""
    nested = isinstance(value, NestedArg) and isinstance(value.val, str)
    if nested and value.key.rpartition(".")[2] not in ("init_args", "dict_kwargs"):
        return value, None
    return parse_value_or_config(value, enable_path=enable_path, simple_types=simple_types)


@wraps(_check_type)  # jsonargparse passes what the signature names
def _check_type_of_entries(action: Any, value: Any, **context: Any) -> Any:
    """Reads an entry of a dictionary here, unless it may be a text: no parser of its own stands behind it."""
    if isinstance(value, NestedArg) and isinstance(value.val, str) and "." not in value.key:
        entries = _types_of_entries(action._typehint)
        if entries and not any(str in (entry, *get_args(entry)) for entry in entries):
            value = parse_value_or_config(value, enable_path=False)[0]
    return _check_type(action, value, **context)


def _types_of_entries(annotation: Any) -> list[Any]:
    """The types of the values of dictionaries in an annotation."""
    if get_origin(annotation) in (Union, UnionType):
        return [entry for part in get_args(annotation) for entry in _types_of_entries(part)]
    kind = get_origin(annotation) or annotation
    return [(*get_args(annotation), Any, Any)[1]] if isclass(kind) and issubclass(kind, Mapping) else []
