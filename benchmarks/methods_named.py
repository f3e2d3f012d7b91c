"""The methods that are compared: a name for the table, and the overlays that make it of the common config."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from laser_lightning.cli.config_files import packaged_names, read_config
from laser_lightning.errors import UserError

FOLDERS = ("methods", "baselines")
"""Where an overlay is looked for whose name has no folder."""


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        name: its heading.
        overlays: names or paths of configs, laid over the common one in this order.
    """

    name: str
    overlays: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The name as a part of a directory's: ``laser_as_published``."""
        return re.sub(r"[^a-z0-9.]+", "_", self.name.lower()).strip("_")


NAMED = {
    "laser": Method("LaSeR"),
    "published": Method("LaSeR as published", ("baselines/published",)),
    "without_mixing": Method("LaSeR without mixing", ("baselines/without_mixing",)),
    "grpo": Method("GRPO", ("baselines/grpo",)),
    "supervised": Method("supervised variant", ("baselines/supervised",)),
    "two_token": Method("two-token head", ("baselines/two_token",)),
    "rise": Method("RISE", ("baselines/rise",)),
}
"""The rows that are compared by default, by their short names."""


def read_methods(text: str) -> list[Method]:
    """The methods of a list such as ``laser,baselines/grpo,methods/ngrpo,both=methods/ngrpo+methods/credo``.

    An item is a short name of ``NAMED``, or overlays joined by ``+``, with a name before ``=`` or else named as they
    are (and those of ``NAMED`` as there). An overlay is a short name too, a packaged config (``ngrpo`` finds
    ``methods/ngrpo``) or the path of a file.

    Args:
        text: items, separated by commas.

    Raises:
        UserError: naming the item, if an overlay does not exist, or two items would share a directory.
    """
    methods = [_method(item.strip()) for item in text.split(",")]
    slugs = [method.slug for method in methods]
    for number, method in enumerate(methods):
        if not method.slug:
            raise UserError(f"--methods: item {number + 1} of {text!r} has no name: give NAME=OVERLAY.")
        if method.slug in slugs[:number]:
            raise UserError(f"--methods names {method.name!r} twice: give one of them another name, NAME=OVERLAY.")
    return methods


def _method(item: str) -> Method:
    if item in NAMED:
        return NAMED[item]
    name, given, overlays = ("", "", item) if Path(item).is_file() or "=" not in item else item.partition("=")
    parts = [overlays] if Path(overlays).is_file() else [part for part in overlays.split("+") if part]
    found = tuple(overlay for part in parts for overlay in _overlays(part))
    if given:
        return Method(name, found)
    known = next((method for method in NAMED.values() if found and method.overlays == found), None)
    return known or Method("+".join(part.rpartition("/")[2].removesuffix(".yaml") for part in parts), found)


def _overlays(name: str) -> tuple[str, ...]:
    """Those of a short name, or the one of a config's."""
    if name in NAMED:
        return NAMED[name].overlays
    if "/" not in name:
        known: Sequence[str] = packaged_names()
        name = next((path for folder in FOLDERS if (path := f"{folder}/{name}") in known), name)
    try:
        read_config(name)
    except UserError as error:
        raise UserError(f"--methods: {error}") from error
    return (name,)
