"""Arguments read from source files, against those that jsonargparse finds in the imported classes."""

import re
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import yaml

from laser_lightning.cli.config_files import packaged_names, read_config
from laser_lightning.cli.exact_parser import ExactParser
from laser_lightning.cli.source_classes import Sources

OWN_FILE = """
from dataclasses import dataclass, field
from laser_lightning.data import FileSource as Source
import laser_lightning.data as data

@dataclass
class Below:
    first: int = 1

@dataclass
class Settings(Below):
    second: int = 2
    third: list = field(default_factory=list)
    hidden: int = field(init=False, default=0)

class Mixin:
    def other(self): ...

class Passes(Mixin, Source):
    def __init__(self, mine: int, settings: Settings = Settings(), **rest):
        super().__init__(template=None, **rest)

class Hides(Source):
    def __init__(self, mine: int = 3, **rest):
        rest.pop("anything", None)

class Inherits(data.FileSource):
    pass
"""


def class_paths() -> list[str]:
    """Every class that a packaged config names."""
    found: set[str] = set()

    def collect(value: Any) -> None:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if key == "class_path":
                found.add(item)
            elif isinstance(item, dict | list):
                collect(item)

    for name in packaged_names():
        collect(yaml.safe_load(read_config(name)))
    return sorted({*found, "laser_lightning.LaSeRModule", "laser_lightning.data.PromptDataModule"})


@pytest.mark.parametrize("path", class_paths())
def test_arguments_of_packaged_classes_are_those_of_the_parser(path: str) -> None:
    parser = ExactParser()
    parser.add_class_arguments(locate(path), fail_untyped=False)  # type: ignore[arg-type]
    sources = Sources()
    found = sources.find_class(path)
    assert found is not None
    arguments = sources.arguments(found)
    if arguments is None:  # left to the parser
        assert path == "laser_lightning.distributed.strategies.LaSeRDDPStrategy"  # DDPStrategy stores its `**kwargs`
    else:
        # A part that is a default has keys of its own.
        known = list(parser.get_defaults().keys())
        keys = {re.sub(r"\.(class_path|init_args)\b.*", "", key) for key in known}
        assert sorted(sources.flat_names(arguments)) == sorted(keys)


def test_arguments_of_a_users_own_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_file.py").write_text(OWN_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    sources = Sources()

    def names(path: str) -> list[str] | None:
        found = sources.find_class(path)
        arguments = None if found is None else sources.arguments(found)
        return None if arguments is None else sources.flat_names(arguments)

    source = names("laser_lightning.data.FileSource")
    assert source is not None
    assert "path" in source
    assert names("own_file.Settings") == ["first", "second", "third"]
    assert names("own_file.Inherits") == source
    assert names("own_file.Passes") == ["mine", "settings.first", "settings.second", "settings.third", *source]
    assert names("own_file.Hides") is None  # nobody can tell what it takes out of `rest`
    assert names("own_file.NotThere") is None
    assert names("no_such_file.Class") is None


def test_a_class_passes_on_the_arguments_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_file.py").write_text(OWN_FILE)
    monkeypatch.syspath_prepend(tmp_path)
    takes = Sources().takes_arguments_of
    source = "laser_lightning.data.FileSource"
    assert takes("laser_lightning.data.sources.FileSource", source) is True  # the same, by another path
    assert takes("own_file.Inherits", source) is True
    assert takes("own_file.Passes", source) is True
    assert takes(source, "own_file.Passes") is False
    assert takes("laser_lightning.data.HubSource", source) is False
    assert takes("own_file.NotThere", source) is None
