"""Keys of version 0.1 in config files and on the command line, renewed before they are merged with others."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from laser_lightning.cli.nodes import COMMAND_LINE, Entries, entries, items, shown, where
from laser_lightning.errors import UserError
from laser_lightning.old_settings import FORMS, OVERLONG, UNSET, Form, filled, old_keys

_MAP, _LIST, _TEXT = (f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str"))


class Renewal:
    """Renews config files one by one, each on top of what those before it have come to.

    It remembers the old keys of the files before, so that old files overlay each other as they did: ``epsilon`` of one
    goes with the ``estimator`` of another. A new form forgets them, as it stands for all of them.
    """

    def __init__(self) -> None:
        self._given: dict[Form, Entries] = {}

    def of(self, overlay: MappingNode, below: Node) -> MappingNode:
        """A config file with the settings of its model in their new form.

        Args:
            overlay: the file; it is not changed.
            below: the files before it, merged.

        Raises:
            UserError: if both forms of the same settings are in it.
        """
        model = entries(overlay, ()).get("model", (None, None))[1]
        if not isinstance(model, MappingNode):
            return overlay
        path = ("model", "init_args") if "init_args" in entries(model, ("model",)) else ("model",)
        arguments = _at(overlay, *path)
        for settings in FORMS:
            if isinstance(given := _at(arguments, settings), MappingNode):
                new = self._renewed(settings, given, _at(below, "model", "init_args", settings))
                overlay = overlay if new is given else _with(overlay, (*path, settings), new)
        return overlay

    def _renewed(self, settings: str, node: MappingNode, below: Node | None) -> MappingNode:
        given = entries(node, ("model", settings))
        plain = {key: _plain(value) for key, (_, value) in given.items()}
        found = dict(old_keys(settings, plain))
        for form in FORMS[settings]:
            if form.key in given and form not in found:
                self._given.pop(form, None)
        new: Entries = {}
        for form, keys in found.items():
            old = {key: given.pop(key) for key in keys}
            _tell(f"model.{settings}", form, old)
            first = next(iter(old.values()))[0]
            above = given.pop(form.key, (None, None))[1]
            if above is not None and form.key != "shaping":
                raise UserError(
                    f"model.{settings}.{keys[0]} ({where(first)}): {form.key} is given in its new form beside it, and "
                    f"has it as an argument: leave out {', '.join(keys)}."
                )
            known = self._given[form] = self._given.get(form, {}) | old
            others = above or _at(below, form.key)
            value = form.value({key: _plain(item) for key, (_, item) in known.items()}, _class_of(others))
            if value is UNSET:
                continue
            value = filled(value, {key: item for key, (_, item) in known.items()})
            new[form.key] = (_node(form.key, first), _node(_beside(value, others), first))
        return MappingNode(_MAP, list((new | given).values()), node.start_mark) if found else node


def old_options(args: Sequence[str]) -> tuple[MappingNode | None, list[str]]:
    """Takes the options of version 0.1 out of a command line.

    Args:
        args: its words.

    Returns:
        What they say, as a config that overlays the files; and the other words.
    """
    tree: dict[str, Any] = {}
    rest: list[str] = []
    words = list(args)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        value = value if equals else words[0] if words else ""
        key = tuple(part for part in name.removeprefix("--").split(".") if part != "init_args")
        if not word.startswith("--") or key[:1] != ("model",) or not _is_old(key[1:], value):
            rest.append(word)
            continue
        if not equals:
            words = words[1:]
        at = tree
        for part in key[:-1]:
            at[part] = at[part] if isinstance(at.get(part), dict) else {}
            at = at[part]
        at[key[-1]] = _read(value)
    node = _node(tree, _read(""))
    return (node if isinstance(node, MappingNode) and tree else None), rest


def _is_old(key: tuple[str, ...], value: str) -> bool:
    """Whether an option of the model, such as ``advantage.overlong.penalty``, is one of old."""
    if not key or key[0] not in FORMS:
        return False
    plain = _plain(_read(value))
    if len(key) == 1:
        return isinstance(plain, Mapping) and any(old_keys(key[0], plain))
    return (len(key) == 2 or key[1] == "overlong") and any(old_keys(key[0], {key[1]: plain}))


def _read(value: str) -> Node:
    """The node of a value on the command line."""
    try:
        loader = yaml.SafeLoader(value)
        loader.name = COMMAND_LINE
        node = loader.get_single_node()
    except yaml.YAMLError:
        node = None
    mark = yaml.Mark(COMMAND_LINE, 0, 0, 0, None, None)
    return node if node is not None else ScalarNode(_TEXT, value, mark, mark)


def _tell(settings: str, form: Form, old: Entries) -> None:
    plain = {key: _plain(node) for key, (_, node) in old.items()}
    value = form.value(plain, None)
    value = form.value(plain, "laser_lightning.TruncatedImportance") if value is UNSET else value
    was, now = _flow(plain), _flow({form.key: filled(value, plain)})
    place = where(next(iter(old.values()))[0])
    warnings.warn(
        f"{place}: in {settings}, `{was}` is now `{now}`; the old form goes in version 0.3.",
        FutureWarning,
        stacklevel=2,
    )


def _flow(pairs: dict[str, Any]) -> str:
    return yaml.safe_dump(pairs, default_flow_style=True, width=10_000, sort_keys=False).strip()[1:-1]


def _beside(value: Any, below: Node | None) -> Any:
    """A list of shapers with those that were there before, where the penalty of length keeps its place and settings."""
    if not isinstance(value, list) or not isinstance(below, SequenceNode):
        return value
    new = value[0]["init_args"] if value else None
    shapers: list[Any] = []
    for item in items(below):
        if _class_of(item) != OVERLONG:
            shapers.append(item)
        elif new is not None:
            older = _at(item, "init_args")
            pairs = entries(older, ()) if isinstance(older, MappingNode) else {}
            pairs |= entries(new, ())
            shapers.append(
                {"class_path": OVERLONG, "init_args": MappingNode(_MAP, list(pairs.values()), new.start_mark)}
            )
            new = None
    return shapers if new is None else [*shapers, *value]


def _plain(node: Node) -> Any:
    return yaml.SafeLoader("").construct_document(node)


def _class_of(node: Node | None) -> str | None:
    """The class that a node names, in short or by ``class_path``."""
    named = _at(node, "class_path") if isinstance(node, MappingNode) else node
    return shown(named) if isinstance(named, ScalarNode) and named.tag == _TEXT else None


def _at(node: Node | None, *path: str) -> Node | None:
    for key in path:
        node = entries(node, ()).get(key, (None, None))[1] if isinstance(node, MappingNode) else None
    return node


def _with(node: MappingNode, path: tuple[str, ...], value: Node) -> MappingNode:
    """A mapping with another value at a path that it has."""
    pairs = entries(node, ())
    key_node, older = pairs[path[0]]
    assert len(path) == 1 or isinstance(older, MappingNode)
    pairs[path[0]] = (key_node, value if len(path) == 1 else _with(older, path[1:], value))
    return MappingNode(node.tag, list(pairs.values()), node.start_mark)


def _node(value: Any, place: Node) -> Node:
    """A node of plain values and nodes, as if it stood at a place."""
    if isinstance(value, Node):
        return value
    if isinstance(value, dict):
        pairs = [(_node(key, place), _node(item, place)) for key, item in value.items()]
        return MappingNode(_MAP, pairs, place.start_mark)
    if isinstance(value, list):
        return SequenceNode(_LIST, [_node(item, place) for item in value], place.start_mark)
    made = yaml.SafeDumper("").represent_data(value)
    return ScalarNode(made.tag, made.value, place.start_mark)
