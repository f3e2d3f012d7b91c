"""A policy in the form that transformers loads, with the self-reward's settings."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from laser_lightning.errors import UserError
from laser_lightning.metrics.votes.saved import VOTES_FILE, save_rules
from laser_lightning.modules.exported_head import exported_head
from laser_lightning.modules.laser import LaSeRModule
from laser_lightning.modules.model_card import write_card
from laser_lightning.modules.training import TrainingModule
from laser_lightning.objective.self_reward.settings import SETTINGS_FILE, SelfRewardSettings
from laser_lightning.policy.lora import merged_weights, save_adapter
from laser_lightning.runs.checkpoints import put_in_place


def check_adapter(module: TrainingModule) -> None:
    """Refuse to export the adapter of a model without one."""
    if module.policy_settings.lora is None:
        raise UserError("The model was trained without LoRA (policy.lora), so there is no adapter to export.")


def write_export(
    module: TrainingModule,
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
    if (head := exported_head(module)) is not None:
        settings = SelfRewardSettings.of(head, step)
        settings.save(partial)
        if isinstance(module, LaSeRModule) and (left_out := save_rules(module.evaluator.votes, partial)):
            rank_zero_warn(
                f"{directory.name}/{VOTES_FILE} is without the vote rules {', '.join(left_out)}: an argument of theirs "
                "has no plain form, such as a number, a text or a list."
            )
        if settings.needs_reference:
            rank_zero_warn(
                f"self_reward.reference is exact, so {directory.name}/{SETTINGS_FILE} has no reference constant: "
                "self-rewards of the exported model need the model that training started from."
            )
    write_card(module, partial, step, adapter, metrics)
    put_in_place(partial, directory)
