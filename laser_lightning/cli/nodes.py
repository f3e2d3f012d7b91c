"""YAML nodes: their keys, and the file and line that they came from."""

from typing import Any

from yaml import MappingNode, Node, ScalarNode, SequenceNode

from laser_lightning.errors import UserError

Key = tuple[str, ...]
Entries = dict[str, tuple[Node, Node]]

COMMAND_LINE = "command line"


def entries(node: MappingNode, key: Key) -> Entries:
    """The pairs of a mapping by their keys, those that it takes from others (``<<``) included.

    Args:
        node: the mapping.
        key: where it stands.

    Raises:
        UserError: if a key is not a word, or is given twice.
    """
    own: Entries = {}
    inherited: Entries = {}
    for key_node, value in node.value:
        name = shown(key_node)
        if key_node.tag == "tag:yaml.org,2002:merge":
            for source in reversed(items(value)):
                inherited |= entries(source, key)
            continue
        if not isinstance(key_node, ScalarNode):
            raise UserError(f"{'.'.join(key) or 'config'} ({where(key_node)}): a key must be a word, not {name!r}")
        if name in own:
            raise UserError(f"{'.'.join((*key, name))} ({where(key_node)}): the key is given twice in one mapping")
        own[name] = (key_node, value)
    return inherited | own


def items(node: Node) -> list[Any]:
    """The items of a list; anything else is the only one."""
    return list(node.value) if isinstance(node, SequenceNode) else [node]


def where(node: Node) -> str:
    """The file and line of a node, or that the command line has it; nothing for a default."""
    name = node.start_mark.name
    return name if name in (None, "", COMMAND_LINE) else f"{name}, line {node.start_mark.line + 1}"


def shown(node: Node) -> str:
    """A scalar's text, and of anything else what it is."""
    return str(node.value) if isinstance(node, ScalarNode) else f"a {node.id}"
