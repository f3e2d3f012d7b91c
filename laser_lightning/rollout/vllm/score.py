"""The score inside vLLM: a logits processor that puts the reward token behind each ``<eos>``."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from laser_lightning.policy.logprobs import reward_token_log_probs
from laser_lightning.rollout.vllm.responses import SETTINGS


class ScoreProcessor(LogitsProcessor):
    """Turns logits into what vLLM is to return for the sampled token, without a change to what is sampled.

    A row whose last token is an ``<eos>`` can only continue with z_c, whose value is log pi(z_c) at temperature 1.
    Every other row becomes its log-probs at the sampling temperature: they differ from the logits by a constant, which
    sampling does not see. Both are multiplied by the temperature, by which vLLM divides next. In its mode
    ``processed_logits`` vLLM then returns the sampled token's value, before top-k, top-p and min-p are normalised.

    Requests without settings of this processor stay as they are, and those with other settings are no trouble: a server
    may answer several ranks at once.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.rows: dict[int, _Row] = {}

    def is_argmax_invariant(self) -> bool:
        """The forced z_c changes what greedy decoding picks."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the requests as they enter, move within and leave the batch."""
        process_dict_updates(self.rows, batch_update, _Row.of)

    def apply(self, logits: Tensor) -> Tensor:
        """Rewrite the logits [B, V] (float32) of the rows that have settings."""
        alike: dict[tuple[int, float], list[int]] = {}
        for number, row in self.rows.items():
            alike.setdefault((row.reward_token_id, row.temperature), []).append(number)
        for (reward_token_id, temperature), numbers in alike.items():
            ended = [number for number in numbers if self.rows[number].has_ended]
            scores = reward_token_log_probs(logits[ended], (reward_token_id,)).squeeze(1)
            values = torch.log_softmax(logits[numbers] / temperature, dim=-1)
            logits = logits.index_copy(0, torch.tensor(numbers, device=logits.device), values * temperature)
            logits[ended] = -torch.inf
            logits[ended, reward_token_id] = scores * temperature
        return logits


@dataclass(frozen=True)
class _Row:
    """What a request wants, and how far it is.

    Attributes:
        reward_token_id: id of z_c.
        eos_token_ids: it comes behind any of these; None if the prompt ends in one.
        temperature: of the sampling.
        output_ids: the tokens so far, in vLLM's own list, which grows.
    """

    reward_token_id: int
    eos_token_ids: frozenset[int] | None
    temperature: float
    output_ids: list[int]

    @classmethod
    def of(cls, params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]) -> "_Row | None":
        """Read a request's settings; None if it has none."""
        if params.extra_args is None or SETTINGS not in params.extra_args:
            return None
        reward_token_id, eos_token_ids = params.extra_args[SETTINGS]
        ends = None if eos_token_ids is None else frozenset(eos_token_ids)
        return cls(reward_token_id, ends, params.temperature or 1.0, output_ids)  # 0 is greedy

    @property
    def has_ended(self) -> bool:
        return self.eos_token_ids is None or bool(self.output_ids and self.output_ids[-1] in self.eos_token_ids)
