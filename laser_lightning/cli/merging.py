"""Config files laid over each other: mappings by key, classes with their arguments, lists that grow."""

from inspect import isclass, signature
from pydoc import ErrorDuringImport, locate

from yaml import MappingNode, Node, ScalarNode, SequenceNode

from laser_lightning.cli.nodes import Entries, Key, entries, items, shown, where
from laser_lightning.cli.source_classes import Sources
from laser_lightning.errors import UserError

CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}


def merge(base: Node, overlay: Node, key: Key = ()) -> Node:
    """Overlays one node on another; neither is changed, because anchors may share them.

    Mappings merge by key, at any depth, and everything else is replaced. An overlay of a class may leave out
    `class_path`, `init_args`, or both; another `class_path` starts afresh, without the arguments of the class
    before, unless it is a subclass that passes them on (`**`, no `__init__` of its own, or one with every argument of
    the class before, by name and default). `key+` appends to the list at `key`.

    Args:
        base: what is below.
        overlay: what is laid over it.
        key: where both stand.

    Raises:
        UserError: a class has an argument beside its `class_path`.
    """
    if not isinstance(overlay, MappingNode):
        return overlay
    above = entries(overlay, key)
    below = entries(base, key) if isinstance(base, MappingNode) else {}
    if CLASS_KEYS & (above.keys() | below.keys()):
        below, above = _spelled_out(below, key), _spelled_out(above, key)
        if _class_changes(below, above):
            below = {}
    merged = dict(below)
    for name, (key_node, value) in above.items():
        target = name.removesuffix("+") if name.removesuffix("+") in merged else name
        if name.endswith("+"):
            older = items(merged[target][1]) if target in merged else []
            value = SequenceNode("tag:yaml.org,2002:seq", older + items(value), value.start_mark)
            merged[target] = (merged.get(target, (key_node,))[0], value)
        else:
            merged.pop(f"{name}+", None)
            empty = MappingNode("tag:yaml.org,2002:map", [], value.start_mark)
            merged[name] = (key_node, merge(merged.get(name, (None, empty))[1], value, (*key, name)))
    return MappingNode(overlay.tag, list(merged.values()), overlay.start_mark, flow_style=False)


def _spelled_out(given: Entries, key: Key) -> Entries:
    """A class with its arguments under `init_args`, where the short form has them beside each other."""
    if not CLASS_KEYS & given.keys():
        if not given:
            return {}
        pairs = list(given.values())
        arguments = MappingNode("tag:yaml.org,2002:map", pairs, pairs[0][0].start_mark)
        return {"init_args": (ScalarNode("tag:yaml.org,2002:str", "init_args", arguments.start_mark), arguments)}
    for name in given.keys() - CLASS_KEYS:
        raise UserError(
            f"{'.'.join((*key, name))} ({where(given[name][0])}): unknown key beside class_path; "
            "arguments of the class go under init_args"
        )
    return given


def _class_changes(below: Entries, above: Entries) -> bool:
    if "class_path" not in below or "class_path" not in above:
        return False
    old, new = shown(below["class_path"][1]), shown(above["class_path"][1])
    if old == new:
        return False
    takes = Sources().takes_arguments_of(new, old)
    if takes is not None:
        return not takes
    try:
        return not _takes_arguments_of(locate(new), locate(old))
    except ErrorDuringImport:
        return True  # the parser imports it again, and says what is wrong with it


def _takes_arguments_of(new: object, old: object) -> bool:
    """Whether a class is another one (there can be two import paths), or a subclass that passes all arguments on."""
    if not isclass(new) or not isclass(old) or not issubclass(new, old):
        return new is old and old is not None
    ours, theirs = signature(new.__init__).parameters, signature(old.__init__).parameters
    passes_on = any(argument.kind is argument.VAR_KEYWORD for argument in ours.values())
    # Of an argument with another default a value of the class before may be none: bounds of another kind of ratio, say.
    takes_all = all(name in ours and ours[name].default == argument.default for name, argument in theirs.items())
    return new is old or new.__init__ is old.__init__ or passes_on or takes_all
