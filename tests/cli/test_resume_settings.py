"""What a resumed run may have otherwise than the run that it resumes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from laser_lightning.arguments import Part
from laser_lightning.cli.resume_settings import ABSENT, check_settings, differences
from laser_lightning.errors import UserError

SAVED: dict[str, Any] = {
    "run_dir": "a",
    "ckpt_path": None,
    "trainer": {"max_steps": 8, "devices": 1, "precision": None},
    "model": {
        "class_path": "laser_lightning.LaSeRModule",
        "init_args": {
            "group_size": 16,
            "verifier": {"class_path": "my.Verifier", "init_args": {"pattern": "x"}},
            "optimizer": {"learning_rate": 1e-6, "schedule": "constant"},
            "update": {"micro_batch_tokens": 100, "mini_batches": 1},
        },
    },
    "data": {
        "class_path": "Data",
        "init_args": {"val": {"a": {"class_path": "S", "init_args": {"size": 3}}}, "seed": 0},
    },
    "figures": {"class_path": "Figures", "init_args": {"dpi": 110}},
}


def changed(**values: Any) -> str:
    """The saved config with other values at keys with __ for the dots."""
    config = yaml.safe_load(yaml.safe_dump(SAVED))
    for key, value in values.items():
        *parts, last = key.split("__")
        at = config
        for part in parts:
            at = at[part]
        at[last] = value
    return yaml.safe_dump(config)


def test_differences_name_the_key_without_init_args() -> None:
    other = {"class_path": "other.Verifier", "init_args": {"tolerance": 3}}
    ours = yaml.safe_load(
        changed(
            model__init_args__group_size=8,
            model__init_args__verifier=other,  # of another class its arguments are not compared
            model__init_args__new=True,
            run_dir="b",
            figures=None,
        )
    )
    del ours["data"]["init_args"]["seed"]
    found = {change.key: (change.theirs, change.ours) for change in differences(SAVED, ours)}
    assert found == {
        "model.group_size": (16, 8),
        "model.verifier": ("my.Verifier", "other.Verifier"),
        "model.new": (ABSENT, True),
        "data.seed": (0, ABSENT),
        "figures": (SAVED["figures"], None),
    }


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"run_dir": "b", "ckpt_path": "last"},
        {"trainer__max_steps": 16, "trainer__devices": 2},
        {"model__init_args__update__micro_batch_tokens": 50},
        {"data__init_args__val": {"b": {"class_path": "T"}}},
        {"figures": None},
        {"calibration": {"class_path": "C"}},
    ],
)
def test_what_changes_no_result_is_taken(values: dict[str, Any]) -> None:
    check_settings(yaml.safe_dump(SAVED), changed(**values), [])


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model__init_args__group_size": 8}, "model.group_size: 16 -> 8"),
    ({"model__init_args__update__mini_batches": 2}, "model.update.mini_batches: 1 -> 2"),
    ({"trainer__precision": "bf16-mixed"}, "trainer.precision: null -> bf16-mixed"),
    ({"trainer__gradient": 1}, "trainer.gradient: nothing -> 1"),
    ({"data__init_args__seed": 1}, "data.seed: 0 -> 1"),
    ({"data__class_path": "Other"}, "data: Data -> Other"),
    ({"model__init_args__optimizer__schedule": "linear"}, "model.optimizer.schedule: constant -> linear"),
]


@pytest.mark.parametrize(("values", "shown"), REFUSED)
def test_what_changes_results_is_refused_unless_it_is_allowed(values: dict[str, Any], shown: str) -> None:
    key = shown.split(":")[0]
    with pytest.raises(UserError) as refusal:
        check_settings(yaml.safe_dump(SAVED), changed(**values, trainer__devices=2), [])
    assert f"change its results: {shown}. Set them as they were, or allow it with --allow_changes {key}" in str(
        refusal.value
    )
    check_settings(yaml.safe_dump(SAVED), changed(**values), [key])
    check_settings(yaml.safe_dump(SAVED), changed(**values), [key.split(".")[0]])  # and all below it


def test_several_are_listed_together_and_allowed_one_by_one() -> None:
    ours = changed(model__init_args__group_size=8, data__init_args__seed=1)
    both = r"data\.seed: 0 -> 1; model\.group_size: 16 -> 8\. .*--allow_changes data\.seed model\.group_size$"
    with pytest.raises(UserError, match=both):
        check_settings(yaml.safe_dump(SAVED), ours, [])
    with pytest.raises(UserError, match=r"results: data\.seed: 0 -> 1\."):
        check_settings(yaml.safe_dump(SAVED), ours, ["model.init_args.group_size", "data.se"])


def test_another_length_changes_results_where_the_schedule_depends_on_it() -> None:
    saved = changed(model__init_args__optimizer={"schedule": "cosine"})
    longer = changed(model__init_args__optimizer={"schedule": "cosine"}, trainer__max_steps=16)
    with pytest.raises(UserError, match=r"trainer\.max_steps: 8 -> 16"):
        check_settings(saved, longer, [])
    check_settings(saved, longer, ["trainer.max_steps"])


def test_a_checkpoint_without_settings_is_told() -> None:
    with pytest.warns(UserWarning, match="does not hold the settings of its run"):
        check_settings(None, changed(), [])


# --------------------------------------------- arguments that a class has got since


@dataclass(frozen=True)
class Limits:
    low: float = 0.0
    high: float = 1.0
    names: list[str] = field(default_factory=lambda: ["a"])


class Inner(Part):
    def __init__(self, weight: float = 0.5) -> None: ...


class Base:
    def __init__(self, rate: float, folder: Path = Path("here"), betas: tuple[float, float] = (0.9, 0.99)) -> None: ...


class Outer(Base):
    def __init__(self, limits: Limits = Limits(), inner: Inner = Inner(0.25), more: Limits | None = None, **rest: Any):  # noqa: B008
        ...


def of(kind: type, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


LIMITS = {"low": 0.0, "high": 1.0, "names": ["a"]}
# Every argument, as a config of today has them.
NOW = {
    "rate": 1e-3,
    "folder": "here",
    "betas": [0.9, 0.99],
    "limits": LIMITS,
    "inner": of(Inner, weight=0.25),
    "more": None,
}


def found(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs in the configs of one module with these arguments."""
    both = ({"model": of(Outer, **arguments)} for arguments in (theirs, ours))
    return {change.key: (change.theirs, change.ours) for change in differences(*both)}


@pytest.mark.parametrize("missing", [*(name for name in NOW if name != "rate"), None])
def test_an_argument_that_came_since_has_its_default(missing: str | None) -> None:
    old = {name: value for name, value in NOW.items() if name == "rate" or missing not in (name, None)}
    assert found(old, NOW) == {}


def test_so_it_is_at_any_depth() -> None:
    old = NOW | {"limits": {"low": 0.5}, "more": {"high": 2.0}, "inner": {"class_path": of(Inner)["class_path"]}}
    # Inner's own default counts, whatever Outer makes of it.
    now = NOW | {"limits": LIMITS | {"low": 0.5}, "more": LIMITS | {"high": 2.0}, "inner": of(Inner, weight=0.5)}
    assert found(old, now) == {}
    items = [{"list": [value["inner"]], "named": {"x": of(Outer, **value)}} for value in (old, now)]
    assert list(differences(*items)) == []


def test_what_is_not_the_default_is_a_difference() -> None:
    old = {"rate": 1e-3, "limits": {"low": 0.5}, "inner": of(Inner)}
    now = NOW | {"limits": LIMITS | {"high": 2.0}, "folder": "there", "more": LIMITS}
    assert found(old, now) == {
        "model.limits.low": (0.5, 0.0),
        "model.limits.high": (1.0, 2.0),
        "model.inner.weight": (0.5, 0.25),
        "model.folder": ("here", "there"),
        "model.more": (None, LIMITS),
    }


def test_one_that_has_gone_is_told_and_leaves_the_others_alone() -> None:
    assert found({"rate": 1e-3, "gone": 3}, NOW) == {"model.gone": (3, ABSENT)}
    # One without a default cannot have been left out: whatever it is now, it is new.
    assert found({}, NOW) == {"model.rate": (ABSENT, 1e-3)}


def test_the_trainers_arguments_have_defaults_too() -> None:
    assert list(differences({"trainer": {}}, {"trainer": {"accumulate_grad_batches": 1}})) == []
    changes = list(differences({"trainer": {}}, {"trainer": {"accumulate_grad_batches": 2}}))
    assert changes == [("trainer.accumulate_grad_batches", 1, 2)]
