"""Decoding without a cache: every token from a pass over the whole sequence, as the update computes it."""

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from laser_lightning.policy.model import Policy
from laser_lightning.records.batching import join_solutions
from laser_lightning.rollout.transformers.cache import GrowingCache, Room, has_cache_argument
from laser_lightning.rollout.transformers.decoding import Decoding

MOST_PLACES = 16_384
"""Tokens, padding included, of a pass: the memory of a pass of the update, whose default this is."""

OTHER_STEPS = ("nemotron_h", "recurrent_gemma", "zamba", "zamba2", "moshi", "dory")
"""Types of models whose steps with a cache differ from their own whole pass in transformers up to 5.24."""


def cache_obstacle(policy: Policy) -> str | None:
    """Why a policy is not decoded with a cache, as far as its classes and its config tell; None if nothing speaks
    against it.

    Args:
        policy: the model.
    """
    lm, decoder = policy.lm, policy.decoder
    name, known = type(decoder).__name__, inspect.signature(type(decoder).forward).parameters
    usual = getattr(lm, "_supports_default_dynamic_cache", None)
    if not has_cache_argument(decoder) or (usual is not None and not usual()):
        return f"{name} takes no usual cache of keys and values"
    layers = GrowingCache(lm.config, 0, Room(columns=0)).layers
    if layers and not any(isinstance(layer, DynamicLayer) for layer in layers):
        return f"no layer of {name} is attention, and padding in front of a prompt would go through its states"
    if any(type(layer).__module__.startswith("transformers.models.") for layer in layers):
        return f"{name} keeps more of its past than keys, values and states"
    follows_mask = any("alibi" in attribute for attribute in dir(type(decoder)))
    if "position_ids" not in known and not follows_mask:
        return f"{name} takes no positions, and would count the padding in front of a prompt"
    if lm.config.get_text_config().model_type in OTHER_STEPS:
        return f"the steps of {name} with a cache differ from its whole pass in transformers"
    return None


@dataclass(eq=False)
class WholePasses(Decoding):
    """Decode one round by a pass over each whole sequence for each of its tokens (see ``Decoding``).

    Sequences are padded on the right, where nothing that looks back, attention or recurrent state, ever sees it. Exact
    for any causal model, and slow: the time of a response grows with the square of its length.
    """

    def _prepare(self) -> bool:
        """Nothing is kept of the rows but their tokens, which stand in the record, so that others can always join."""
        return True

    def _read(self, chosen: list[int]) -> Tensor:
        lengths = torch.tensor([len(self.prompts[prompt]) for prompt in chosen], device=self.policy.device)
        slots = torch.tensor(chosen, device=lengths.device) * self.group_size  # none of which has a response yet
        return self._last_states(slots, lengths)

    def _step(self, tokens: Tensor) -> Tensor:
        return self.policy.head(self._last_states(self.rows.slots, self.rows.feed()))

    def _last_states(self, slots: Tensor, lengths: Tensor) -> Tensor:
        """[B, D] hidden states at the last tokens of solutions.

        Args:
            slots: [B] int64, which solutions of the round.
            lengths: [B] int64, tokens of each, prompt and what is drawn of the response.
        """
        found, pad = [], self.policy.pad_token_id
        rows = max(1, MOST_PLACES // int(lengths.max()))
        for some, ends in zip(slots.split(rows), lengths.split(rows), strict=True):
            ids = join_solutions(self.out, some, int(ends.max()), pad)
            output = self.policy.decoder(input_ids=ids, use_cache=False).last_hidden_state
            found.append(output[torch.arange(len(ids), device=ids.device), ends - 1])
        return torch.cat(found)

    def _move(self, rows: Tensor) -> None:
        """Nothing to do: no row keeps anything."""

    def _cut(self, needed: Tensor) -> None:
        """Nothing to do: there are no columns."""
