"""The callbacks that a run has unless its config says otherwise: which slots there are, and what is in them."""

from collections.abc import Mapping
from pydoc import ErrorDuringImport, locate
from typing import Any, Literal, NamedTuple

from laser_lightning.cli.config_files import Key, Origin


class Slot(NamedTuple):
    """A place for one callback, a key of the config.

    Attributes:
        help: what its callback does.
        default: the class that it holds by default.
        needs: whose runs have it by default: those of LaSeRModule, of any module with a policy, or of any module.
    """

    help: str
    default: str
    needs: Literal["laser", "policy", "any"]


_PACKAGE = "laser_lightning.callbacks"

# In the order in which the trainer calls them; the user's own `trainer.callbacks` come first.
CALLBACK_SLOTS = {
    "calibration": Slot(
        "Measures the reference constant before the first step.", f"{_PACKAGE}.ReferenceConstantCalibration", "laser"
    ),
    "checkpoint": Slot("Saves checkpoints to resume from.", f"{_PACKAGE}.RunCheckpoint", "any"),
    "export": Slot(
        "Writes the model as a directory that transformers loads.", f"{_PACKAGE}.HuggingFaceExport", "policy"
    ),
    "solution_log": Slot("Writes sampled solutions with their rewards.", f"{_PACKAGE}.SolutionLog", "laser"),
    "predictions": Slot("Writes the solutions and votes of `predict`.", f"{_PACKAGE}.Predictions", "laser"),
    "figures": Slot(
        "Draws the self-reward's distribution, ROC, calibration, and the training curves.",
        f"{_PACKAGE}.SelfRewardFigures",
        "laser",
    ),
    "report": Slot("Writes tables and curves of a stand-alone evaluation.", f"{_PACKAGE}.EvaluationReport", "laser"),
    "summary": Slot("Prints the table at the end of the run.", f"{_PACKAGE}.RunSummary", "policy"),
}

# Below every config, so that configs need to name a class, or the slot at all, only where it differs.
DEFAULT_CALLBACKS = "".join(f"{name}: {{class_path: {slot.default}}}\n" for name, slot in CALLBACK_SLOTS.items())

WITHOUT_FILES = {"calibration"}
"""The slots that ``trainer.fast_dev_run``, which writes nothing, leaves in use."""


def given_slots(origins: Mapping[Key, Origin]) -> set[str]:
    """The slots that a config or the command line mentions: what is in them was asked for."""
    return {key[0] for key, origin in origins.items() if key[0] in CALLBACK_SLOTS and origin.where}


def left_out(origins: Mapping[Key, Origin]) -> list[str]:
    """The slots whose default does not suit the model, or has nothing to do.

    Args:
        origins: where each key was given, defaults included.
    """
    defaults = CALLBACK_SLOTS.keys() - given_slots(origins)
    unsuited = {name for name in defaults if not _suits(CALLBACK_SLOTS[name], _class_at(origins, "model"))}
    if _learns_offline(origins):
        unsuited.discard("calibration")
    if not _is_calibrated(origins):
        unsuited.add("calibration")
    if (checkpointing := _value_at(origins, "trainer", "enable_checkpointing")) and checkpointing.lower() == "false":
        unsuited.add("checkpoint")
    return [name for name in CALLBACK_SLOTS if name in defaults & unsuited]


def repeated(slots: Mapping[str, Any], own: list[Any]) -> list[str]:
    """The default callbacks whose work one of ``trainer.callbacks`` does.

    Args:
        slots: callbacks of the slots that nobody asked for, by slot.
        own: the user's.
    """
    from lightning.pytorch.callbacks import Checkpoint

    def same(callback: Any, other: Any) -> bool:
        return isinstance(other, Checkpoint if isinstance(callback, Checkpoint) else type(callback))

    return [name for name, callback in slots.items() if any(same(callback, other) for other in own)]


def _suits(slot: Slot, model: object) -> bool:
    from laser_lightning.modules.laser import LaSeRModule
    from laser_lightning.modules.training import TrainingModule

    if slot.needs == "any" or not isinstance(model, type):  # which the parser refuses, and says why
        return True
    return issubclass(model, LaSeRModule if slot.needs == "laser" else TrainingModule)


def _learns_offline(origins: Mapping[Key, Origin]) -> bool:
    """Whether the model is the supervised one with a score that it learns from recorded solutions."""
    from laser_lightning.modules.supervised import SupervisedModule

    model, head = _class_at(origins, "model"), _class_at(origins, "model", "self_reward")
    # Without a head its name is "", at which `locate` finds the module of the built-ins.
    return isinstance(model, type) and issubclass(model, SupervisedModule) and isinstance(head, type)


def _is_calibrated(origins: Mapping[Key, Origin]) -> bool:
    """Whether the self-reward has a reference constant that is to be measured."""
    from laser_lightning.objective.self_reward.last_token import LastTokenSelfReward

    head = _class_at(origins, "model", "self_reward")
    if isinstance(head, type) and not issubclass(head, LastTokenSelfReward):
        return False
    return _value_at(origins, "model", "self_reward", "reference") in (None, "calibrate", "exported")


def _class_at(origins: Mapping[Key, Origin], *key: str) -> object:
    """The class that a key names; None if it cannot be found."""
    import laser_lightning

    name = _value_at(origins, *key) or _value_at(origins, *key, "class_path") or ""
    try:
        return locate(name) or getattr(laser_lightning, name, None)
    except ErrorDuringImport:
        return None  # the parser imports it again, and says what is wrong with it


def _value_at(origins: Mapping[Key, Origin], *key: str) -> str | None:
    """The scalar that was given last for a key, with or without `init_args` in it."""
    values = [origin.value for where, origin in origins.items() if tuple(p for p in where if p != "init_args") == key]
    return values[-1] if values else None
