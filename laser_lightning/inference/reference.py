"""The model that training started from, for exports whose scores take its log-probs (``reference: exact``)."""

from pathlib import Path

import torch

from laser_lightning.errors import UserError
from laser_lightning.objective.self_reward.settings import SelfRewardSettings
from laser_lightning.policy.model import FrozenPolicy, PolicySettings, load_tokenizer


def check_reference(
    export: str | Path, settings: SelfRewardSettings, reference: str | Path | None, given_as: str
) -> None:
    """Refuse a reference that is missing, or that scores do not take.

    Args:
        export: directory of the export.
        settings: its self-reward.
        reference: what was given; None for none.
        given_as: what would be.
    """
    if settings.needs_reference and reference is None:
        raise UserError(
            f"{export} was trained with self_reward.reference 'exact', so its scores need the model that training "
            f"started from: pass its {given_as} as `reference`."
        )
    if not settings.needs_reference and reference is not None:
        has = "a probability for a score" if settings.beta is None else "a reference constant"
        raise UserError(f"{export} has {has}, so its scores take no reference model: leave `reference` out.")


def load_reference(settings: PolicySettings, self_reward: SelfRewardSettings, device: torch.device) -> FrozenPolicy:
    """Load the reference.

    Args:
        settings: which model.
        self_reward: the export's.
        device: where its weights go.

    Raises:
        UserError: if its tokenizer has another id for the reward token.
    """
    tokenizer = load_tokenizer(settings)
    found = tokenizer.get_vocab().get(self_reward.token)
    if found != self_reward.token_id:
        raise UserError(
            f"The reference {settings.path} is not the model that training started from: its tokenizer gives the "
            f"reward token '{self_reward.token}' the id {found}, and that of the export {self_reward.token_id}."
        )
    return FrozenPolicy(settings, tokenizer).to(device)
