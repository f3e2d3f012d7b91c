import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from laser_lightning.cli import config_files
from laser_lightning.cli.config_files import load_configs, packaged_names, read_config, yaml_value
from laser_lightning.errors import UserError


def merged(folder: Path, *texts: str) -> Any:
    """The value of several config files, overlaid in order."""
    paths = []
    for number, text in enumerate(texts):
        path = folder / f"{number}.yaml"
        path.write_text(text)
        paths.append(str(path))
    return yaml.safe_load(load_configs(paths).text)


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packaged configs, and a working directory without any."""
    root = tmp_path / "packaged"
    (root / "baselines").mkdir(parents=True)
    (root / "quickstart.yaml").write_text("origin: packaged")
    (root / "baselines" / "grpo.yaml").write_text("origin: baseline")
    (root / "__init__.py").write_text("")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(config_files, "packaged_root", lambda: root)
    return root


def test_packaged_configs_are_found_by_name(packaged: Path) -> None:
    assert packaged_names() == ["baselines/grpo", "quickstart"]
    assert read_config("quickstart") == "origin: packaged"
    assert read_config("quickstart.yaml") == "origin: packaged"
    assert read_config("baselines/grpo") == "origin: baseline"


def test_a_path_that_exists_wins_over_a_name(packaged: Path) -> None:
    Path("quickstart").write_text("origin: disk")
    assert read_config("quickstart") == "origin: disk"


def test_a_folder_of_the_same_name_does_not_hide_a_packaged_config(packaged: Path) -> None:
    Path("quickstart").mkdir()
    assert read_config("quickstart") == "origin: packaged"


def test_an_unknown_config_names_the_packaged_ones(packaged: Path) -> None:
    with pytest.raises(UserError) as error:
        read_config("quikstart")
    assert str(error.value) == (
        "config 'quikstart': there is no file at this path and no packaged config of this name "
        "(did you mean quickstart?); packaged are: baselines/grpo, quickstart"
    )


def test_mappings_merge_at_any_depth_and_the_rest_is_replaced(tmp_path: Path) -> None:
    base = "a: {b: {c: 1, d: [1, 2]}, e: text, f: {g: 1}}"
    overlay = "a: {b: {d: [3]}, e: null, f: 2}\nh: 4"
    assert merged(tmp_path, base, overlay) == {"a": {"b": {"c": 1, "d": [3]}, "e": None, "f": 2}, "h": 4}


def test_an_overlay_changes_one_source_among_several(tmp_path: Path) -> None:
    base = """
    data:
      init_args:
        val:
          easy: {class_path: my.Source, init_args: {size: 5, seed: 3}}
          hard: {class_path: my.Source, init_args: {size: 6}}
    """
    value = merged(tmp_path, base, "data: {init_args: {val: {easy: {init_args: {size: 50}}}}}")
    assert value["data"]["init_args"]["val"] == {
        "easy": {"class_path": "my.Source", "init_args": {"size": 50, "seed": 3}},
        "hard": {"class_path": "my.Source", "init_args": {"size": 6}},
    }


@pytest.mark.parametrize(
    "overlay",
    [
        "slot: {n: 2}",
        "slot: {init_args: {n: 2}}",
        "slot: {class_path: json.JSONDecoder, init_args: {n: 2}}",
        "slot: {class_path: json.decoder.JSONDecoder, init_args: {n: 2}}",  # another path of the same class
    ],
)
def test_an_overlay_of_a_class_keeps_the_other_arguments(tmp_path: Path, overlay: str) -> None:
    value = merged(tmp_path, "slot: {class_path: json.JSONDecoder, init_args: {n: 1, m: 1}}", overlay)
    assert value["slot"]["init_args"] == {"n": 2, "m": 1}


@pytest.mark.parametrize("other", ["json.JSONEncoder", "no_such_module.Thing"])
def test_another_class_starts_without_the_arguments_of_the_class_before(tmp_path: Path, other: str) -> None:
    base = "slot: {class_path: json.JSONDecoder, init_args: {n: 1}, dict_kwargs: {k: 1}}"
    value = merged(tmp_path, base, f"slot: {{class_path: {other}, init_args: {{m: 2}}}}")
    assert value == {"slot": {"class_path": other, "init_args": {"m": 2}}}


@pytest.mark.parametrize(
    ("other", "kept"),
    [
        ("laser_lightning.RISEModule", True),  # has every argument of LaSeRModule
        ("overlaid.Same", True),  # has no __init__ of its own
        ("overlaid.Passes", True),
        ("overlaid.Narrow", False),
    ],
)
def test_a_subclass_that_takes_the_same_arguments_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str, kept: bool
) -> None:
    (tmp_path / "overlaid.py").write_text(
        "from laser_lightning import LaSeRModule\n"
        "class Same(LaSeRModule): pass\n"
        "class Passes(LaSeRModule):\n    def __init__(self, mine: int = 1, **others): super().__init__(**others)\n"
        "class Narrow(LaSeRModule):\n    def __init__(self, policy): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "overlaid", raising=False)
    base = "model: {class_path: laser_lightning.LaSeRModule, init_args: {group_size: 8}}"
    value = merged(tmp_path, base, f"model: {{class_path: {other}, init_args: {{seed: 2}}}}")
    assert value["model"] == {"class_path": other, "init_args": {"seed": 2} | ({"group_size": 8} if kept else {})}


def test_a_subclass_with_other_defaults_starts_without_the_arguments_of_the_class_before(tmp_path: Path) -> None:
    losses = "laser_lightning.losses"
    base = f"loss: {{class_path: {losses}.ClippedPolicyLoss, init_args: {{clip_low: 0.2}}}}"
    # GSPO's clip_low bounds the mean ratio of a solution, by 3e-4: the bound of single ratios is none of it.
    value = merged(tmp_path, base, f"loss: {{class_path: {losses}.GSPOPolicyLoss, init_args: {{clip_high: 5.0e-4}}}}")
    assert value["loss"]["init_args"] == {"clip_high": 5e-4}


@pytest.mark.parametrize(
    ("new", "passes_on"),
    [
        ("self, mine=0, second=2, first=1", True),
        ("self, *, first=1, second=2, third=3", True),
        ("self, mine=0, **others", True),
        ("self, first=1", False),
        ("self, first=1, second=3", False),
        ("self, first, second=2", False),
    ],
)
@pytest.mark.parametrize("imported", [False, True])
def test_which_constructors_pass_arguments_on(
    imported: bool, new: str, passes_on: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "class Old:\n    def __init__(self, first=1, second=2): pass\n"
    text += f"class New(Old):\n    def __init__({new}): pass\n"
    # A class that is made where the file does not show it can only be imported.
    text += "if True:\n    for name in ['Made', 'MadeOld']: globals()[name] = {'Made': New, 'MadeOld': Old}[name]\n"
    (tmp_path / "constructors.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "constructors", raising=False)
    old, new = ("constructors.MadeOld", "constructors.Made") if imported else ("constructors.Old", "constructors.New")
    base = f"slot: {{class_path: {old}, init_args: {{first: 5}}}}"
    value = merged(tmp_path, base, f"slot: {{class_path: {new}, init_args: {{second: 6}}}}")
    assert value["slot"]["init_args"] == ({"first": 5} if passes_on else {}) | {"second": 6}


def test_a_short_form_is_spelled_out_under_a_class_path(tmp_path: Path) -> None:
    value = merged(tmp_path, "model: {n: 1, m: 1}", "model: {class_path: my.Model, init_args: {n: 2}}")
    assert value == {"model": {"class_path": "my.Model", "init_args": {"n": 2, "m": 1}}}


def test_a_key_beside_class_path_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.init_argss \(.*0\.yaml, line 3\): unknown key beside class_path"):
        merged(tmp_path, "model:\n  class_path: my.Model\n  init_argss: {n: 1}")


def test_plus_appends_to_a_list(tmp_path: Path) -> None:
    appended = merged(tmp_path, "callbacks: [1]", "callbacks+: [2]", "callbacks+: 3")
    assert appended == {"callbacks": [1, 2, 3]}
    # Without a list in the files, the parser is the one to append, to its default.
    assert merged(tmp_path, "callbacks+: [1]", "callbacks+: [2]") == {"callbacks+": [1, 2]}
    assert merged(tmp_path, "callbacks+: [1]", "callbacks: [2]") == {"callbacks": [2]}


def test_an_overlay_of_one_alias_leaves_the_other_alone(tmp_path: Path) -> None:
    value = merged(tmp_path, "a: &shared {n: 1}\nb: *shared\nc: {<<: *shared, m: 2}", "a: {n: 3}")
    assert value == {"a": {"n": 3}, "b": {"n": 1}, "c": {"n": 1, "m": 2}}


def test_scalars_reach_the_parser_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("plain: 1e-3\nquoted: '1e-3'\nnothing: 'null'\nhash: '#(.+)'\n")
    assert load_configs([str(path)]).text == path.read_text()


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.n \(.*0\.yaml, line 3\): the key is given twice"):
        merged(tmp_path, "model:\n  n: 1\n  n: 2")


def test_what_is_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0\.yaml: a config is a YAML mapping of keys to values"):
        merged(tmp_path, "[1, 2]")


def test_invalid_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0\.yaml, line 2: not valid YAML: "):
        merged(tmp_path, "a: 1\nb: [1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a: Größe\n".encode("latin-1"),
            "a config is text in UTF-8, and this is not (0xf6 at byte 5): save it as UTF-8",
        ),
        ("a: 1\n".encode("utf-16"), "a config is text in UTF-8, and this is not (0xff at byte 0): save it as UTF-8"),
        (b"a: 1\nb: \x00\n", ", line 2: the character 0x0000 cannot stand in YAML"),
    ],
)
def test_a_file_of_another_encoding_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "own.yaml").write_bytes(content)
    with pytest.raises(UserError) as error:
        load_configs([str(tmp_path / "own.yaml")])
    assert str(error.value).removeprefix(str(tmp_path / "own.yaml")).removeprefix(": ") == message


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert merged(tmp_path, "a: 1", "# nothing yet\n") == {"a": 1}


def test_every_key_knows_its_file_and_line(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("a:\n  b: 1\n  c: [x, y]\n")
    second.write_text("\n\na: {b: 2}\n")
    origins = load_configs([str(first), str(second)]).origins
    assert origins["a", "b"] == (f"{second}, line 3", "2")
    assert origins["a", "c"] == (f"{first}, line 3", None)
    assert origins["a", "c", "1"] == (f"{first}, line 3", "y")


@pytest.mark.parametrize(
    ("text", "value"),
    [("#(.+)", "#(.+)"), (" ", " "), ("null", None), ("~", None), ("3", 3), ("1e-3", 0.001), ("[1]", [1])],
)
def test_yaml_value_keeps_text_that_yaml_takes_for_nothing(text: str, value: Any) -> None:
    assert yaml_value(text) == value
