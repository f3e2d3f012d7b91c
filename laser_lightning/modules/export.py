"""A policy in the form that transformers loads, with the self-reward's settings."""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from laser_lightning.cli.config_files import load_configs
from laser_lightning.cli.program import DEFAULT_MODEL
from laser_lightning.errors import UserError
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.model_card import metrics_of_run, write_card
from laser_lightning.modules.training import PolicyModule
from laser_lightning.objective.self_reward.settings import SETTINGS_FILE, SelfRewardSettings
from laser_lightning.policy.lora import merged_weights, save_adapter
from laser_lightning.runs.checkpoints import put_in_place, read_checkpoint


def check_adapter(module: PolicyModule) -> None:
    """Refuse to export the adapter of a model without one."""
    if module.policy_settings.lora is None:
        raise UserError("The model was trained without LoRA (policy.lora), so there is no adapter to export.")


def write_export(
    module: PolicyModule,
    weights: dict[str, Tensor],
    directory: Path,
    step: int,
    adapter: bool = False,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write an export beside its place, and put it there by a rename; one process does it.

    Args:
        module: whose policy, tokenizer and self-reward it is.
        weights: the policy's, whole, under the names of its transformers model.
        directory: the export's place; an earlier one there is replaced.
        step: optimizer steps behind the weights.
        adapter: write LoRA's adapter in peft's form, in place of a plain model with the adapter merged in.
        metrics: values of the evaluation of these weights, for the model card.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    if partial.exists():  # of a run that was killed
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    lm = module.policy.lm
    if adapter:
        save_adapter(lm, weights, partial)
        lm.generation_config.save_pretrained(partial)
    else:
        lm.save_pretrained(partial, state_dict=dict(merged_weights(lm, weights)))
    module.tokenizer.save_pretrained(partial)
    if isinstance(module, LaSeRModule) and module.judges_by_score:
        settings = SelfRewardSettings.of(module.self_reward, step)
        settings.save(partial)
        if settings.needs_reference:
            rank_zero_warn(
                f"self_reward.reference is exact, so {directory.name}/{SETTINGS_FILE} has no reference constant: "
                "self-rewards of the exported model need the model that training started from."
            )
    write_card(module, partial, step, adapter, metrics)
    put_in_place(partial, directory)


def export_checkpoint(checkpoint: Path, out: Path, configs: Sequence[str] = (), adapter: bool = False) -> None:
    """Write the policy of a checkpoint on disk as ``HuggingFaceExport`` would have in the run.

    Args:
        checkpoint: file, or directory of DeepSpeed.
        out: the export's directory, not there yet.
        configs: names or paths of the run's configs; default: the ``config.yaml`` that the run saved.
        adapter: write LoRA's adapter in peft's form, in place of a plain model with the adapter merged in.

    Raises:
        UserError: if ``out`` is in use, the checkpoint is incomplete or of another model, or there is no config, or
            no adapter where it is asked for.
    """
    if out.exists():
        raise UserError(f"{out} exists already: name another directory for the export, or delete it.")
    if not checkpoint.exists():
        raise UserError(f"There is no checkpoint at {str(checkpoint)!r}.")
    saved = read_checkpoint(checkpoint)
    module = _module_of([*configs] or [str(_saved_config(checkpoint))])
    if adapter:
        check_adapter(module)
    PolicyModule.configure_model(module)  # a frozen reference is not exported, and need not be loaded
    if isinstance(module, LaSeRModule):
        module.self_reward.bind(module.tokenizer, module.policy.eos_token_ids)
    module.on_load_checkpoint(saved)
    module.load_state_dict(saved["state_dict"], strict=False)
    step = saved["global_step"]
    write_export(module, module.policy.lm.state_dict(), out, step, adapter, metrics_of_run(checkpoint, step))


def _saved_config(checkpoint: Path) -> Path:
    path = checkpoint.absolute()
    for directory in (path.parent.parent, path.parent):
        if (directory / "config.yaml").is_file():
            return directory / "config.yaml"
    raise UserError(
        f"The run's config.yaml is not in {path.parent.parent}, where the run of {checkpoint} left it: name the run's "
        "configs with --config."
    )


def _module_of(configs: Sequence[str]) -> PolicyModule:
    """The module of a run's configs, without its data and trainer."""
    values = yaml.safe_load(load_configs(configs, DEFAULT_MODEL).text)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model", required=True)
    try:
        module = parser.instantiate(parser.parse_object({"model": values["model"]})).model
    except argparse.ArgumentError as error:
        raise UserError(f"{', '.join(configs)}: {error}") from error
    if not isinstance(module, PolicyModule):
        raise UserError(f"{', '.join(configs)}: the model is {type(module).__name__}, which has no policy to export.")
    return module
