"""Two methods in one config, of which the later one undoes a part of the earlier one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import yaml
from yaml import MappingNode, Node

from laser_lightning.cli.merging import merge
from laser_lightning.cli.nodes import Key, entries, items, where
from laser_lightning.errors import UserError

Settings = dict[Key, Node]


class Overlay(NamedTuple):
    """A config file: its name, its content, and whether it is a packaged method rather than somebody's choice."""

    name: str
    node: MappingNode
    is_method: bool


@dataclass
class LaidMethod:
    """A method that lies in a config.

    Attributes:
        overlay: the method.
        below: the config that it was laid over.
        kept: what it sets, as far as nothing behind it has replaced that.
    """

    overlay: Overlay
    below: Node
    kept: Settings


class Undone(NamedTuple):
    """What a method set at a key, and a later one replaced, or dropped with the class whose argument it is."""

    earlier: LaidMethod
    later: Overlay
    key: Key
    value: Node


class LaidMethods:
    """The methods of a config, as its files are laid over each other, and what is lost of them.

    Two that set a key to the same value go together, and so do two lists of which the later one is appended (``key+``).
    A file that is no method may replace what it likes, and settles what methods before it differ about.
    """

    def __init__(self) -> None:
        self._laid: list[LaidMethod] = []
        self._undone: list[Undone] = []

    def lay(self, below: Node, overlay: Overlay) -> Node:
        """Lay a file over a config.

        Args:
            below: the config.
            overlay: the file.

        Returns:
            Both in one.
        """
        merged = merge(below, overlay.node)
        own, now = _settings(overlay.node), _settings(merged)
        if not overlay.is_method:
            self._undone = [undone for undone in self._undone if not any(_overlap(undone.key, key) for key in own)]
        for laid in self._laid:
            for key in _lost(laid.kept, now):
                value = laid.kept.pop(key)
                if overlay.is_method:
                    self._undone.append(Undone(laid, overlay, key, value))
        if overlay.is_method:
            self._laid.append(LaidMethod(overlay, below, own))
        return merged

    def refuse_conflicts(self) -> None:
        """Refuse the first two methods of which one undid a part of the other.

        Raises:
            UserError: naming the two, the parts with their lines, and what to do.
        """
        if not self._undone:
            return
        laid, later = self._undone[0].earlier, self._undone[0].later
        parts: dict[Key, str] = {}
        for undone in sorted(self._undone, key=lambda undone: len(_part(undone.key))):
            if undone.earlier is laid and undone.later is later:
                part, lines = _named(undone, _settings(later.node))
                if not any(_overlap(part, other) for other in parts):
                    parts[part] = f"{'.'.join(part)} ({lines})"
        swapped = merge(merge(laid.below, later.node), laid.overlay.node)
        apart = "Leave one of them out, or set what you want of both in a config file behind them"
        raise UserError(
            f"{later.name} would undo what {laid.overlay.name} sets: {', '.join(parts.values())}. "
            + (apart if _lost(_settings(later.node), _settings(swapped)) else f"Name {later.name} first")
        )


def _named(undone: Undone, later: Settings) -> tuple[Key, str]:
    """The part that was undone, and the lines of both: of the later one, if it sets that part itself."""
    part, lines = _part(undone.key), where(undone.value)
    for key, value in later.items():
        if _overlap(part, key) and (key[-1] != "class_path" or _part(key) == part):
            return min(part, _part(key), key=len), f"{lines}; {where(value)}"
    return part, lines


def _settings(node: Node) -> Settings:
    """The values of a config that are no mappings, or empty ones, by key without ``init_args``."""
    return dict(_walk(node, ()))


def _walk(node: Node, key: Key) -> Iterator[tuple[Key, Node]]:
    if not isinstance(node, MappingNode) or not node.value:
        yield key, node
        return
    for name, (_, value) in entries(node, key).items():
        yield from _walk(value, key if name == "init_args" else (*key, name))


def _lost(settings: Settings, now: Settings) -> list[Key]:
    """The keys of settings that a config has not, or with another value."""
    return [key for key, value in settings.items() if not _holds(now, key, value)]


def _holds(now: Settings, key: Key, value: Node) -> bool:
    name = key[-1].removesuffix("+")
    found = now.get((*key[:-1], name), now.get(key))
    if found is None:
        return False
    if name == key[-1]:
        same = items(found)[: len(items(value))] if isinstance(value, yaml.SequenceNode) else [found]
        return _texts(same) == _texts(items(value))
    return set(_texts(items(value))) <= set(_texts(items(found)))


def _part(key: Key) -> Key:
    """The part that a key chooses: without ``class_path``, and ``key+`` as the list that it is appended to."""
    return tuple(name.removesuffix("+") for name in key if name != "class_path")


def _overlap(key: Key, other: Key) -> bool:
    """Whether two keys set the same, or one a part of what the other one sets."""
    return all(name == same for name, same in zip(_part(key), _part(other), strict=False))


def _texts(nodes: list[Node]) -> list[str]:
    return [yaml.serialize(node, Dumper=yaml.SafeDumper) for node in nodes]
