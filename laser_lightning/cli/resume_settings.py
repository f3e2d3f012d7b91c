"""Which settings a resumed run may change: those that change no result, and others only when it is asked for."""

from collections.abc import Iterator, Mapping, Sequence
from pydoc import ErrorDuringImport, locate
from typing import Any, NamedTuple
from warnings import catch_warnings

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from laser_lightning.cli.class_defaults import REQUIRED, arguments_of
from laser_lightning.cli.default_callbacks import CALLBACK_SLOTS
from laser_lightning.errors import UserError
from laser_lightning.old_settings import renewed_config, renewed_key

SAVED_SETTINGS = "laser_settings"
"""Key in a checkpoint: the resolved config of its run, as YAML."""

BOOKKEEPING = ("run_dir", "ckpt_path", "weights_only", "allow_changes")
"""Keys that say which run this is. They are not compared."""

HARMLESS = (
    # Where and how fast: results change by rounding at most. What resumes on other processes says so itself.
    "torch_threads",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.plugins",
    "trainer.benchmark",
    "trainer.deterministic",
    "trainer.detect_anomaly",
    "trainer.inference_mode",
    "model.micro_batch_sequences",
    "model.update.micro_batch_tokens",
    "model.policy.attention",
    "model.policy.packing",
    "model.policy.shared_prompts",
    "model.policy.gradient_checkpointing",
    "model.policy.compile",
    "model.policy.liger",
    "model.engine.max_prefill_tokens",
    "model.verification.workers",
    # How long. A schedule that falls to 0 at the last step is another matter, see `_harmless`.
    "trainer.max_steps",
    "trainer.max_epochs",
    "trainer.min_steps",
    "trainer.min_epochs",
    "trainer.max_time",
    "model.max_skipped_steps",
    "model.update.max_mismatch",
    # What is measured, saved and shown. Evaluations draw random numbers of their own.
    "data.val",
    "data.test",
    "data.predict",
    "data.eval_prompts_per_batch",
    "model.evaluation",
    "trainer.val_check_interval",
    "trainer.check_val_every_n_epoch",
    "trainer.limit_val_batches",
    "trainer.limit_test_batches",
    "trainer.limit_predict_batches",
    "trainer.num_sanity_val_steps",
    "trainer.log_every_n_steps",
    "trainer.logger",
    "trainer.callbacks",
    "trainer.profiler",
    "trainer.default_root_dir",
    "trainer.enable_checkpointing",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.enable_autolog_hparams",
    "trainer.barebones",
    "trainer.model_registry",
    *CALLBACK_SLOTS,
)
"""Keys (and all below them) that a resumed run may have otherwise. Every other one changes what is learned."""


class Change(NamedTuple):
    """A setting that differs, without `init_args` in its key; ABSENT where one of the two does not have it."""

    key: str
    theirs: Any
    ours: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.theirs)} -> {_shown(self.ours)}"


ABSENT = object()

ROOTS = {"trainer": Trainer}
"""Groups of arguments, by key, whose class no other class names."""


class SettingsInCheckpoints(Callback):
    """Saves the run's resolved config in each checkpoint.

    Args:
        config: as YAML.
    """

    def __init__(self, config: str) -> None:
        self.config = config

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the config."""
        checkpoint[SAVED_SETTINGS] = self.config


def check_settings(saved: str | None, config: str, allowed: Sequence[str]) -> None:
    """List what differs from the run that is resumed, and refuse what changes results and was not allowed.

    Args:
        saved: config of the checkpoint's run, as YAML; None if the checkpoint does not have it. Settings of version
            0.1 are taken in their new form.
        config: of this run, as YAML.
        allowed: keys that may change, and all below them.

    Raises:
        UserError: naming each change that was not allowed.
    """
    if saved is None:
        rank_zero_warn("The checkpoint does not hold the settings of its run, so they cannot be compared with these.")
        return
    ours, allowed = yaml.safe_load(config), [*allowed, *map(renewed_key, allowed)]
    changes = list(differences(renewed_config(yaml.safe_load(saved)), ours))
    refused = [change for change in changes if not _harmless(change.key, ours) and not _is_below(change.key, allowed)]
    if refused:
        keys = " ".join(change.key for change in refused)
        raise UserError(
            f"ckpt_path: these settings are not those of the run that is resumed, and change its results: "
            f"{'; '.join(map(str, refused))}. Set them as they were, or allow it with --allow_changes {keys}"
        )
    if changes:
        rank_zero_info(f"Settings that differ from those of the checkpoint: {'; '.join(map(str, changes))}.")


def differences(theirs: Any, ours: Any, key: str = "", kind: Any = None) -> Iterator[Change]:
    """The settings of two configs that differ; of another class only its name.

    An argument that one of them lacks has its default there, so that one which a class has got since is no difference.

    Args:
        theirs: the one config, or a value in it.
        ours: the other.
        key: of the values.
        kind: class whose arguments they are, where they do not name it themselves.
    """
    if not (isinstance(theirs, Mapping) and isinstance(ours, Mapping)):
        if theirs != ours and not _same_items(theirs, ours):
            yield Change(key, theirs, ours)
        return
    if not _same_class(theirs.get("class_path"), ours.get("class_path")):
        yield Change(key, theirs.get("class_path", ABSENT), ours.get("class_path", ABSENT))
        return
    kind = _located(ours["class_path"]) if "class_path" in ours else kind
    arguments = arguments_of(kind) if callable(kind) else {}
    theirs, ours = _arguments(theirs), _arguments(ours)
    for name in [*theirs, *(name for name in ours if name not in theirs)]:
        if not key and name in BOOKKEEPING:
            continue
        below = f"{key}.{name}".lstrip(".")
        default, settings = arguments.get(name, (REQUIRED, ROOTS.get(below)))
        default = ABSENT if default is REQUIRED else default
        yield from differences(theirs.get(name, default), ours.get(name, default), below, settings)


def _arguments(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a class that a value names; any other mapping as it is."""
    if "class_path" not in value:
        return value
    others = {name: given for name, given in value.items() if name not in ("class_path", "init_args")}
    return {**(value.get("init_args") or {}), **others}


def _same_items(theirs: Any, ours: Any) -> bool:
    if not (isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours)):
        return False
    return not any(True for pair in zip(theirs, ours, strict=True) for _ in differences(*pair, "item"))


def _same_class(theirs: Any, ours: Any) -> bool:
    """Whether two class paths lead to one class, which may have moved, or have several names."""
    if theirs == ours or not (isinstance(theirs, str) and isinstance(ours, str)):
        return bool(theirs == ours)
    found = _located(theirs)
    return found is not None and found is _located(ours)


def _located(path: str) -> Any:
    """The class of a path; None if it is not here."""
    try:
        with catch_warnings(action="ignore"):  # an old place says so, and nobody is to change a checkpoint
            return locate(path)
    except ErrorDuringImport:
        return None


def _harmless(key: str, ours: Mapping[str, Any]) -> bool:
    if key in ("trainer.max_steps", "trainer.max_epochs"):
        return _schedule(ours) not in ("linear", "cosine")  # which fall to 0 at the last step
    return _is_below(key, HARMLESS)


def _schedule(config: Mapping[str, Any]) -> Any:
    """What the learning rate does behind its warm-up, as far as the config of the model says."""
    value: Any = config
    for name in ("model", "init_args", "optimizer", "schedule"):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value or "constant"


def _is_below(key: str, keys: Sequence[str]) -> bool:
    plain = [name.replace(".init_args", "") for name in keys]
    return any(key == name or key.startswith(f"{name}.") for name in plain)


def _shown(value: Any) -> str:
    if value is ABSENT:
        return "nothing"
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("\n...\n").strip()
    )
