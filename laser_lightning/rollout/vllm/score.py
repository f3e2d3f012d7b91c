"""The score inside vLLM: a logits processor that puts the reward token behind each ``<eos>``."""

from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from laser_lightning.policy.logprobs import reward_token_log_probs

SETTINGS = "laser"
"""Key of ``SamplingParams.extra_args`` under which a request brings the reward token's id, and the ids of ``<eos>`` or
None: its prompt ends in one, and nothing but the token follows."""


class ScoreProcessor(LogitsProcessor):
    """Turns logits into what vLLM is to return for the sampled token, without a change to what is sampled.

    A row whose last token is an ``<eos>`` can only continue with z_c, whose value is log pi(z_c) at temperature 1.
    Every other row becomes its log-probs at the sampling temperature: they differ from the logits by a constant, which
    sampling does not see. Both are multiplied by the temperature, by which vLLM divides next. In its mode
    ``processed_logits`` vLLM then returns the sampled token's value, before top-k, top-p and min-p are normalised.

    All requests in the batch come from one call of the engine and share their settings.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.rows: dict[int, tuple[SamplingParams, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """The forced z_c changes what greedy decoding picks."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests as they enter, move within and leave the batch."""
        # The list of a request's tokens is vLLM's own, which grows.
        process_dict_updates(self.rows, batch_update, lambda params, prompt_ids, output_ids: (params, output_ids))

    def apply(self, logits: Tensor) -> Tensor:
        """Rewrite the logits [B, V] (float32) of all rows."""
        if not self.rows:
            return logits
        params = next(iter(self.rows.values()))[0]
        assert params.extra_args is not None
        reward_token_id, eos_token_ids = params.extra_args[SETTINGS]
        temperature = params.temperature or 1.0  # greedy
        ended = [
            row
            for row, (_, output_ids) in self.rows.items()
            if eos_token_ids is None or (output_ids and output_ids[-1] in eos_token_ids)
        ]
        scores = reward_token_log_probs(logits[ended], (reward_token_id,)).squeeze(1)
        values = torch.log_softmax(logits / temperature, dim=-1)
        values[ended] = -torch.inf
        values[ended, reward_token_id] = scores
        return values * temperature
