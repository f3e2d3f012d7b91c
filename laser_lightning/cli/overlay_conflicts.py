"""Two methods in one config: what both of them set, and cannot both have."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import yaml
from yaml import MappingNode, Node

from laser_lightning.cli.nodes import Key, entries, where
from laser_lightning.errors import UserError


class Overlay(NamedTuple):
    """A config file: its name, its content, and whether it is a packaged method rather than somebody's choice."""

    name: str
    node: MappingNode
    is_method: bool


def refuse_conflicts(overlays: Sequence[Overlay]) -> None:
    """Refuses methods of which a later one would undo a part of an earlier one.

    Two that set a key to the same value go together, and so do two lists of which the later one is appended (``key+``).
    What a file behind both sets, that is no method, is settled by it.

    Args:
        overlays: config files, in the order in which they are laid.

    Raises:
        UserError: naming the two methods, what they set differently, and what to do.
    """
    for (_, earlier), (place, later) in combinations([item for item in enumerate(overlays) if item[1].is_method], 2):
        behind = [file.node for file in overlays[place + 1 :] if not file.is_method]
        if undone := _undone(earlier.node, later.node, behind):
            apart = "Leave one of them out, or set what you want of both in a config file behind them"
            swapped = f"Name {later.name} first"
            raise UserError(
                f"{later.name} would undo a part of {earlier.name}: both set {', '.join(undone)}. "
                + (apart if _undone(later.node, earlier.node, behind) else swapped)
            )


def _undone(earlier: MappingNode, later: MappingNode, behind: Sequence[MappingNode]) -> list[str]:
    """What an overlay replaces of another one, and no file behind both replaces: the parts, with the lines of both."""
    settled = [key for node in behind for key, _ in _settings(node, ())]
    undone: dict[Key, str] = {}
    for key, old, new in sorted(_replaced(earlier, later), key=lambda replaced: len(replaced[0])):
        part = tuple(name for name in key if name not in ("init_args", "class_path"))
        if not any(part[: len(above)] == above for above in undone) and not any(_overlap(key, own) for own in settled):
            undone[part] = f"{'.'.join(part)} ({where(old)}; {where(new)})"
    return list(undone.values())


def _replaced(earlier: MappingNode, later: MappingNode) -> Iterator[tuple[Key, Node, Node]]:
    """Keys at which two overlays differ, and the values of both."""
    settings = list(_settings(earlier, ()))
    for key, new in _settings(later, ()):
        for other, old in settings:
            if _overlap(key, other) and not key[-1].endswith("+") and (key != other or _text(new) != _text(old)):
                yield min(_place(key), _place(other), key=len), old, new


def _settings(node: Node, key: Key) -> Iterator[tuple[Key, Node]]:
    """The values of a config that are no mappings, or empty ones, by key."""
    if not isinstance(node, MappingNode) or not node.value:
        yield key, node
        return
    for name, (_, value) in entries(node, key).items():
        yield from _settings(value, (*key, name))


def _overlap(key: Key, other: Key) -> bool:
    """Whether two keys set the same, or one a part of what the other one sets."""
    return all(name == same for name, same in zip(_place(key), _place(other), strict=False))


def _place(key: Key) -> Key:
    """What a key sets: ``key+`` a part of the list at ``key``."""
    return (*key[:-1], key[-1].removesuffix("+"))


def _text(node: Node) -> str:
    return yaml.serialize(node, Dumper=yaml.SafeDumper)
