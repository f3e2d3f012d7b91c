"""Settings of version 0.1 whose form has changed, and their new form, for configs, options and checkpoints.

Everything is a function on plain mappings. A new form is told with ``Old`` in the places of values that are taken over
as they are, so that whoever holds more than a plain value (a YAML node with its line) puts that there.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

_PACKAGE = "laser_lightning"

ESTIMATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "group_relative": ("GroupRelative", {}),
    "leave_one_out": ("LeaveOneOut", {}),
    "batch_normalized": ("BatchNormalized", {"baseline": False}),
    "batch_normalized_with_baseline": ("BatchNormalized", {"baseline": True}),
}
"""Class and arguments of the estimators that had names."""

ESTIMATOR_ARGUMENTS = {
    "GroupRelative": ("divide_by_std", "epsilon"),
    "BatchNormalized": ("epsilon",),
    "LeaveOneOut": (),
}
"""The settings of old that each of them takes. The others had no effect beside it."""

IMPORTANCES = ("none", "token", "sequence")


class Old(NamedTuple):
    """The place of a value that is taken over.

    Attributes:
        key: the old key that has it.
    """

    key: str


class Form(NamedTuple):
    """A new key, and the old ones that it stands for.

    Attributes:
        key: the new key.
        old: the old keys; one of them may be ``key`` itself, with other values.
        is_old: of the value of ``key``, whether it is one of old.
        value: the new value, from the old ones that are known and the class that the new key has without them (None
            if it has its default); ``UNSET`` if they make no difference.
    """

    key: str
    old: tuple[str, ...]
    is_old: Callable[[Any], bool]
    value: Callable[[Mapping[str, Any], str | None], Any]


UNSET = object()


def _estimator(old: Mapping[str, Any], below: str | None) -> Any:
    name, fixed = ESTIMATORS[old["estimator"]] if "estimator" in old else (None, {})
    path = f"{_PACKAGE}.{name}" if name else below or f"{_PACKAGE}.GroupRelative"
    takes = ESTIMATOR_ARGUMENTS.get(path.rpartition(".")[2], ("divide_by_std", "epsilon"))
    given = [key for key in ("divide_by_std", "epsilon") if key in old]
    # Without effect was what is left out here, but for `divide_by_std: false`, which was refused, and is.
    kept = {key: Old(key) for key in given if key in takes or (key == "divide_by_std" and old[key] is False)}
    return {"class_path": path, "init_args": fixed | kept}


def _mixing(old: Mapping[str, Any], below: str | None) -> Any:
    new = {"self_reward_mix": "tau", "min_std": "min_std", "mix_unanimous_groups": "mix_unanimous_groups"}
    arguments = {new[key]: Old(key) for key in new if key in old}
    return {"class_path": below or f"{_PACKAGE}.SelfRewardMixing", "init_args": arguments}


def _importance(old: Mapping[str, Any], below: str | None) -> Any:
    if old.get("importance") == "none":
        return None
    if "importance" not in old and below is None:
        return UNSET  # a cap of nothing
    level = {"level": Old("importance")} if "importance" in old else {}
    cap = {"cap": Old("importance_cap")} if "importance_cap" in old else {}
    path = f"{_PACKAGE}.TruncatedImportance"
    return {"class_path": path if level else below, "init_args": level | cap}


def _kl(old: Mapping[str, Any], below: str | None) -> Any:
    return {"class_path": f"{_PACKAGE}.KLEstimate", "init_args": {"estimator": Old("kl_estimator")}}


def _shaping(old: Mapping[str, Any], below: str | None) -> Any:
    if old["overlong"] is None:
        return []
    return [{"class_path": OVERLONG, "init_args": Old("overlong")}]


def _never(value: Any) -> bool:
    return False


OVERLONG = f"{_PACKAGE}.OverlongPenalty"

FORMS: dict[str, tuple[Form, ...]] = {
    "advantage": (
        Form(
            "estimator",
            ("estimator", "divide_by_std", "epsilon"),
            lambda value: isinstance(value, str) and value in ESTIMATORS,
            _estimator,
        ),
        Form("mixing", ("self_reward_mix", "min_std", "mix_unanimous_groups"), _never, _mixing),
        Form("shaping", ("overlong",), _never, _shaping),
    ),
    "update": (
        Form(
            "importance",
            ("importance", "importance_cap"),
            lambda value: isinstance(value, str) and value in IMPORTANCES,
            _importance,
        ),
        Form("kl", ("kl_estimator",), _never, _kl),
    ),
}
"""The forms, by the key of the model's settings that they are in."""


def old_keys(settings: str, given: Mapping[str, Any]) -> Iterator[tuple[Form, list[str]]]:
    """Finds what is in the form of old.

    Args:
        settings: ``advantage`` or ``update``; nothing is found in others.
        given: keys and plain values.

    Yields:
        Each form of which old keys are given, and these.
    """
    for form in FORMS.get(settings, ()):
        if found := [key for key in form.old if key in given and (key != form.key or form.is_old(given[key]))]:
            yield form, found


def renewed(settings: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in their new form.

    Args:
        settings: ``advantage`` or ``update``; others stay as they are.
        given: their keys and plain values, of old, new, or both.
    """
    new = dict(given)
    for form, keys in old_keys(settings, given):
        old = {key: new.pop(key) for key in keys}
        value = form.value(old, None)
        if value is not UNSET:
            new[form.key] = filled(value, old)
    return new


def filled(value: Any, old: Mapping[str, Any]) -> Any:
    """A new form with the values of the old keys in their places.

    Args:
        value: with ``Old`` in it.
        old: what stands there, by old key.
    """
    if isinstance(value, Old):
        return old[value.key]
    if isinstance(value, dict):
        return {key: filled(item, old) for key, item in value.items()}
    return [filled(item, old) for item in value] if isinstance(value, list) else value


def renewed_config(config: Any) -> Any:
    """A whole config, such as a checkpoint holds, with the settings of its model in their new form.

    Args:
        config: plain; anything but a mapping stays as it is.
    """
    model = config.get("model") if isinstance(config, Mapping) else None
    if not isinstance(model, Mapping):
        return config
    inside = isinstance(model.get("init_args"), Mapping)
    arguments = {
        key: renewed(key, value) if isinstance(value, Mapping) else value
        for key, value in (model["init_args"] if inside else model).items()
    }
    return {**config, "model": {**model, "init_args": arguments} if inside else arguments}


def renewed_key(key: str) -> str:
    """The key that now holds what an old one held, such as ``model.advantage.mixing``; any other as it is."""
    words = [word for word in key.split(".") if word != "init_args"]
    for form in FORMS.get(words[1], ()) if words[0] == "model" and len(words) > 2 else ():
        if words[2] in form.old:
            return ".".join((*words[:2], form.key))
    return key


def renewed_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The plain arguments of a module, as a checkpoint holds them, with its settings in their new form.

    Args:
        arguments: by name; settings stand there as a class path with their fields.
    """
    new = dict(arguments)
    for name in FORMS.keys() & arguments.keys():
        if isinstance(fields := unfolded(arguments[name]), Mapping):
            plain = {key: unfolded(value) if key == "overlong" else value for key, value in fields.items()}
            new[name] = {**arguments[name], "init_args": renewed(name, plain)}
    return new


def unfolded(value: Any) -> Any:
    """The fields of settings that stand as a class path with their fields; anything else as it is."""
    return value.get("init_args") if isinstance(value, Mapping) and "class_path" in value else value
