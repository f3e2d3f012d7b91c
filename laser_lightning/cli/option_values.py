"""Values that reach their keys, and files, as they were written.

The parser of jsonargparse 4.53 hands the value of a key within a class from one parser to the next as Python's text of
what it read: ``null`` arrives as the text ``None``, and ``Note: x`` as that of a dict. And its printed configs lose
the quotes of texts that YAML would read as something else, such as ``yes`` and ``1e5``.
"""

import json
from argparse import Action
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from inspect import isclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from jsonargparse import get_loader
from yaml import Node, ScalarNode

_READ = get_loader("yaml")
_MARK = "\ue000"  # of the private use area: no text of a user's begins with it


def wrapped(args: Sequence[str], options: Mapping[str, Action]) -> list[str]:
    """Wraps the values of keys within classes, so that every parser on their way passes them on as they are.

    Args:
        args: the words of a command line.
        options: the parser's own options; their values are left alone.

    Returns:
        The words, with ``--key=value`` in place of two.
    """
    words: list[str] = []
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.partition("=")
        if arg.startswith("--") and name not in options and not name.endswith(".help") and ".dict_kwargs." not in name:
            value = value if equals else next(rest, "")
            words.append(f"{name}={json.dumps(_MARK + value, ensure_ascii=False)}")
        else:
            words += [arg] if equals or not arg.startswith("--") else [arg, *_value_of(rest, options.get(name))]
    return words


def unwrapped(value: Any) -> Any:
    """Takes a value out of its wrapping.

    Args:
        value: any value; another than a wrapped text is returned as it is.
    """
    return json.loads(value)[len(_MARK) :] if isinstance(value, str) and value.startswith(f'"{_MARK}') else value


def arrived(args: Sequence[str], options: Mapping[str, Action]) -> list[str]:
    """Takes the values out of their wrapping that have arrived where they are read.

    Args:
        args: words such as ``--key=value``.
        options: the options of the parser that reads them.

    Returns:
        The words; the value of a key within another class stays wrapped.
    """
    words = []
    for arg in args:
        name, _, value = arg.partition("=")
        owners = (option for option in options if name.startswith(f"{option}."))
        is_here = name in options or any(_is_mapping(getattr(options[owner], "_typehint", None)) for owner in owners)
        words.append(f"{name}={unwrapped(value)}" if is_here and value else arg)
    return words


def dump_yaml(data: Any) -> str:
    """Writes YAML whose texts are read as texts by every reader of YAML, whatever they look like.

    Args:
        data: dicts, lists and plain values.
    """
    return yaml.dump(data, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def requoted(commented: str, plain: str) -> str:
    """Puts back the quotes that a YAML text lost when comments were added.

    Args:
        commented: the text with comments.
        plain: the same config by ``dump_yaml``.
    """
    edits = []
    for place, scalar in zip(_scalars(yaml.compose(commented)), _scalars(yaml.compose(plain)), strict=True):
        if scalar.style in ("'", '"') and place.style is None:
            edits.append((place.start_mark.index, place.end_mark.index, json.dumps(scalar.value, ensure_ascii=False)))
    for start, end, text in reversed(edits):
        commented = commented[:start] + text + commented[end:]
    return commented


class _Dumper(yaml.SafeDumper):
    """Quotes every text that is not read as itself."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> ScalarNode:
    try:
        is_plain = _READ(text) == text
    except (yaml.YAMLError, TypeError):  # jsonargparse's reader takes the key of "?" for a text
        is_plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, None if is_plain or "\n" in text else "'")


_Dumper.add_representer(str, _represent_text)
# Defaults of Lightning's callbacks may be members of an enum.
_Dumper.add_multi_representer(Enum, lambda dumper, member: _represent_text(dumper, str(member.value)))


def _value_of(rest: Iterator[str], option: Action | None) -> list[str]:
    """The word behind one of the parser's own options, which may look like a key within a class."""
    return [] if option is None or option.nargs == 0 else [word for word in [next(rest, None)] if word is not None]


def _scalars(node: Node | None) -> Iterator[ScalarNode]:
    if isinstance(node, ScalarNode):
        yield node
    elif node is not None:
        for item in node.value:
            for part in item if isinstance(item, tuple) else (item,):
                yield from _scalars(part)


def _is_mapping(kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_is_mapping(part) for part in get_args(kind))
    origin = get_origin(kind) or kind
    return isclass(origin) and issubclass(origin, Mapping)
