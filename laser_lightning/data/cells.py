"""Cells that hold more than a value: columns inside of columns, and prompts as lists of chat messages (verl's data)."""

from collections.abc import Iterator, Mapping
from typing import Any

Message = dict[str, str]


def column_names(row: Mapping[str, Any]) -> Iterator[str]:
    """The names of a row's columns, and behind each those of the columns inside of it: ``a``, ``a.b``."""
    for name, cell in row.items():
        yield name
        if isinstance(cell, Mapping):
            yield from (f"{name}.{inner}" for inner in column_names(cell))


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The cell of a column, of one inside of another by their names with a dot between; None where there is none."""
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    cell = row.get(outer)
    return value_at(cell, inner) if isinstance(cell, Mapping) else None


def split_messages(cell: Any) -> tuple[list[Message], Any]:
    """The messages in front of the problem, and the problem: a conversation's last message, or the cell as it is.

    Args:
        cell: a conversation, which is a list of mappings with ``role`` and ``content``, or anything else.

    Raises:
        ValueError: a conversation does not end with the user's message, or a message is not text.
    """
    is_conversation = isinstance(cell, list) and bool(cell) and all(isinstance(message, Mapping) for message in cell)
    if not is_conversation:
        return [], cell
    for number, message in enumerate(cell):
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise ValueError(f"message {number}, which is no text with a role (the keys 'role' and 'content')")
    *context, last = ({"role": message["role"], "content": message["content"]} for message in cell)
    if last["role"] != "user":
        raise ValueError(f"a conversation that ends with the message of '{last['role']}', not with the user's")
    return context, last["content"]


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON may hold one half of a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
