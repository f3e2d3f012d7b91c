"""Every way in which a policy leaves a run, tried without its weights, in a moment, before the first step."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import logging

from laser_lightning.errors import UserError
from laser_lightning.policy.lora import (
    ADAPTER,
    adapter_config,
    adapter_weights,
    merged_weights,
    own_adapter_weights,
    weights_in_model,
)
from laser_lightning.policy.model import Policy
from laser_lightning.policy.weight_stream import whole_on_meta

ADAPTER_EXPORT = "adapter export"


@dataclass(frozen=True)
class ExportTrial:
    """What came of trying one way to export a policy.

    Attributes:
        way: ``export``, or with LoRA ``merged export`` and ``adapter export``.
        problem: a sentence about what does not work; None where the way works.
    """

    way: str
    problem: str | None = None


def try_exports(policy: Policy, tokenizer: PreTrainedTokenizerBase) -> list[ExportTrial]:
    """Try all exports of a policy, with shapes in place of weights.

    The config, the generation config, the tokenizer and a model's own code are written to a temporary directory, and
    the config is read again. The weights, which have no values on torch's meta device, are merged with their adapters,
    turned into those of a checkpoint as transformers saves them, and loaded as transformers loads them: none may be
    missing, left over, or of another shape. With LoRA, peft puts adapters into that model by the config that would be
    written, and must ask for just the tensors that it makes of those that would be written. No weight is read, and
    random states stay as they are. One process does it: transformers writes nothing in the other ones.

    Args:
        policy: loaded, sharded or not.
        tokenizer: its tokenizer.
    """
    lm = policy.lm
    whole = "export" if policy.adapters is None else "merged export"
    with _quiet(), torch.random.fork_rng(), TemporaryDirectory() as directory:
        state = {name: whole_on_meta(tensor) for name, tensor in lm.state_dict(keep_vars=True).items()}
        try:
            plain = _save_and_load(lm, dict(merged_weights(lm, state)), tokenizer, Path(directory))
        except Exception as error:  # of whatever is wrong with a model
            return [ExportTrial(whole, _sentence(lm, whole, error))]
        trials = [ExportTrial(whole)]
        if policy.adapters is not None:
            try:
                _load_adapter(lm, state, plain)
                trials.append(ExportTrial(ADAPTER_EXPORT))
            except Exception as error:
                trials.append(ExportTrial(ADAPTER_EXPORT, _sentence(lm, ADAPTER_EXPORT, error)))
        return trials


def check_exports(policy: Policy, tokenizer: PreTrainedTokenizerBase, adapter: bool = False) -> None:
    """Refuse a policy whose export would fail, and warn of another way to export it that would.

    Args:
        policy: loaded, sharded or not.
        tokenizer: its tokenizer.
        adapter: the export that is asked for is that of the adapter, in place of a whole model.

    Raises:
        UserError: if the export that is asked for does not work.
    """
    refuse_failed(try_exports(policy, tokenizer), adapter)


def refuse_failed(trials: list[ExportTrial], adapter: bool) -> None:
    """Refuse what ``try_exports`` found of the export that is asked for, and warn of what it found of another."""
    for trial in trials:
        if trial.problem is None:
            continue
        if adapter == (trial.way == ADAPTER_EXPORT):
            raise UserError(trial.problem)
        warnings.warn(trial.problem, stacklevel=2)


def _save_and_load(
    lm: PreTrainedModel, weights: dict[str, Tensor], tokenizer: PreTrainedTokenizerBase, directory: Path
) -> PreTrainedModel:
    """Write all but the weights, and load these in the form in which they would have been written.

    Returns:
        The model that transformers makes of the export, on the meta device.
    """
    lm.save_pretrained(directory, state_dict={})
    tokenizer.save_pretrained(directory)
    config = type(lm.config).from_pretrained(directory)
    options: dict[str, Any] = {"dtype": lm.dtype, "device_map": "meta", "ignore_mismatched_sizes": True}
    state = revert_weight_conversion(lm, weights)
    loaded: Any = type(lm).from_pretrained(None, config=config, state_dict=state, output_loading_info=True, **options)
    plain, found = loaded
    for key, what in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "would have, unknown to the model,"),
        ("mismatched_keys", "would have in another shape"),
    ):
        if names := sorted(name if isinstance(name, str) else name[0] for name in found[key]):
            raise ValueError(f"it {what} {len(names)} tensors, such as {names[0]}")
    return plain


def _load_adapter(lm: PreTrainedModel, state: dict[str, Tensor], plain: PreTrainedModel) -> None:
    """Find out whether peft finds the adapters again in the loaded model."""
    from peft import inject_adapter_in_model

    config, written = adapter_config(lm), adapter_weights(lm, state)
    inject_adapter_in_model(deepcopy(config), plain, ADAPTER, low_cpu_mem_usage=True)
    vars(plain)["peft_config"] = {ADAPTER: config}
    read = _shapes_of(weights_in_model(plain, written))
    if wrong := sorted(read ^ _shapes_of(own_adapter_weights(plain, plain.state_dict()))):
        raise ValueError(f"peft does not find all of its tensors again, such as {wrong[0][0]}")


def _shapes_of(weights: dict[str, Tensor]) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(value.shape)) for name, value in weights.items()}


def _sentence(lm: PreTrainedModel, way: str, error: Exception) -> str:
    what = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
    remedy = "take another model"
    if way == ADAPTER_EXPORT:
        remedy = "export the merged model, or name other layers in policy.lora.target_modules"
    return f"The {way} of {type(lm).__name__} does not work ({what}): {remedy}."


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and reports."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
