"""Config files: found by name or path, overlaid in order, and remembered line by line for error messages.

Files are merged as YAML nodes, before any value is interpreted, so every scalar reaches the parser as it was
written and every key knows the file and the line it came from.
"""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import get_loader
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from laser_lightning.cli.nodes import Key, shown, where
from laser_lightning.cli.old_keys import Renewal
from laser_lightning.cli.overlay_conflicts import LaidMethods, Overlay
from laser_lightning.errors import UserError

_JSONARGPARSE_YAML = get_loader("yaml")
METHODS = ("methods/", "baselines/")
"""The packaged configs that are a method each: where two of them differ, neither order is the meant one."""


class Origin(NamedTuple):
    """Where a key was given (nowhere, if it is a default), and its value if that is a scalar."""

    where: str
    value: str | None


class Config(NamedTuple):
    """Several config files in one: the YAML text, and the origin of each key (list items by their index)."""

    text: str
    origins: dict[Key, Origin]


def packaged_root() -> Traversable:
    """The folder of the configs that ship with the package."""
    return files("laser_lightning.configs")


def packaged_names() -> list[str]:
    """Names of the packaged configs, such as `quickstart` and `baselines/grpo`, sorted."""
    return sorted(_yaml_names(packaged_root(), ""))


def load_configs(names: Sequence[str], base: str = "", on_top: MappingNode | None = None) -> Config:
    """Reads config files and overlays them in order.

    Mappings merge by key, at any depth, and everything else is replaced. An overlay of a class may leave out
    `class_path`, `init_args`, or both; another `class_path` starts afresh, without the arguments of the class
    before, unless it is a subclass that passes them on (`**`, no `__init__` of its own, or one with every argument of
    the class before, by name and default). `key+` appends to the list at `key`.

    Args:
        names: Paths of files, or names of packaged configs. A path that exists wins.
        base: YAML text below the first file.
        on_top: what is overlaid last, see ``old_keys.old_options``.

    Returns:
        The merged config.

    Raises:
        UserError: A name is unknown, a file is not a YAML mapping, or two packaged methods set a key differently
            (``LaidMethods``).
    """
    merged: Node = MappingNode("tag:yaml.org,2002:map", [])
    renewal, laid = Renewal(), LaidMethods()
    texts = [("", base), *((name, read_config(name)) for name in names)]
    for name, node in [*((name, _compose(name, text)) for name, text in texts), ("", on_top)]:
        if node is not None:
            overlay = renewal.of(node, merged)
            merged = laid.lay(merged, Overlay(name, overlay, _is_method(name)))
    laid.refuse_conflicts()
    origins = {key: _origin(node) for key, node in _walk(merged, ())}
    return Config(yaml.serialize(merged, Dumper=yaml.SafeDumper, allow_unicode=True), origins)


def read_config(name: str) -> str:
    """The text of one config.

    Args:
        name: Path of a file, or name of a packaged config.

    Returns:
        The text of the file.

    Raises:
        UserError: There is neither a file nor a packaged config of this name.
    """
    if Path(name).is_file():
        try:
            return Path(name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            found = f"{error.object[error.start]:#04x} at byte {error.start}"
            raise UserError(
                f"{name}: a config is text in UTF-8, and this is not ({found}): save it as UTF-8"
            ) from error
        except OSError as error:
            raise UserError(f"{name}: cannot be read: {error.strerror}") from error
    known = packaged_names()
    if name.removesuffix(".yaml") in known:
        return packaged_root().joinpath(name.removesuffix(".yaml") + ".yaml").read_text(encoding="utf-8")
    close = get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UserError(
        f"config {name!r}: there is no file at this path and no packaged config of this name{hint}; "
        f"packaged are: {', '.join(known)}"
    )


def yaml_value(text: str) -> Any:
    """Reads one value, and keeps what YAML takes for nothing, such as `#(.+)` or a space, as the text it is.

    The parser of jsonargparse 4.53 reads strings a second time and turns these into null, in silence, where both
    a string and null are allowed.

    Args:
        text: the value, as YAML.

    Returns:
        The value.
    """
    value = _JSONARGPARSE_YAML(text)
    return text if value is None and text.strip().lower() not in ("null", "~") else value


def _is_method(name: str) -> bool:
    return name.startswith(METHODS) and not Path(name).is_file()


def _yaml_names(folder: Traversable, prefix: str) -> Iterator[str]:
    for item in folder.iterdir():
        if item.is_dir():
            yield from _yaml_names(item, f"{prefix}{item.name}/")
        elif item.name.endswith(".yaml"):
            yield prefix + item.name.removesuffix(".yaml")


def _compose(name: str, text: str) -> MappingNode | None:
    """Parses a file to a mapping node whose marks carry the file's name; None for an empty file."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{name}, line {line}: the character {error.character:#06x} cannot stand in YAML") from error
    loader.name = name
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{name}, line {line}: not valid YAML: {error.problem}") from error
    finally:
        loader.dispose()
    if node is not None and not isinstance(node, MappingNode):
        raise UserError(f"{name}: a config is a YAML mapping of keys to values, not {shown(node)!r}")
    return node


def _walk(node: Node, key: Key) -> Iterator[tuple[Key, Node]]:
    if key:
        yield key, node
    if isinstance(node, MappingNode):
        for key_node, value in node.value:
            yield from _walk(value, (*key, key_node.value))
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*key, str(index)))


def _origin(node: Node) -> Origin:
    return Origin(where(node), node.value if isinstance(node, ScalarNode) else None)
