"""The model of a checkpoint on disk, built from the run's configs and written as an export."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule

from laser_lightning.cli.config_files import load_configs
from laser_lightning.cli.program import DEFAULT_MODEL
from laser_lightning.errors import UserError
from laser_lightning.modules.export import check_adapter, write_export
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.model_card import metrics_of_run
from laser_lightning.modules.training import TrainingModule
from laser_lightning.policy.exports import check_exports
from laser_lightning.runs.checkpoints import read_checkpoint


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
    TrainingModule.configure_model(module)  # a frozen reference is not exported, and need not be loaded
    if isinstance(module, LaSeRModule):
        module.self_reward.bind(module.tokenizer, module.policy.eos_token_ids)
    check_exports(module.policy, module.tokenizer, adapter)
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


def _module_of(configs: Sequence[str]) -> TrainingModule:
    """The module of a run's configs, without its data and trainer."""
    values = yaml.safe_load(load_configs(configs, DEFAULT_MODEL).text)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningModule, "model", required=True)
    try:
        module = parser.instantiate(parser.parse_object({"model": values["model"]})).model
    except argparse.ArgumentError as error:
        raise UserError(f"{', '.join(configs)}: {error}") from error
    if not isinstance(module, TrainingModule):
        raise UserError(f"{', '.join(configs)}: the model is {type(module).__name__}, which has no policy to export.")
    return module
