"""The score in a stock ``vllm serve`` of an export: a plugin that vLLM finds by its entry point.

A request that asks for it runs one token past its ``<eos>``, where nothing but the reward token z_c is left; its raw
log-prob in the reply is log pi(z_c given x, y), from which r_s = beta * (log pi(z_c) - c_ref). It asks by

    "vllm_xargs": {"self_reward": 1}, "ignore_eos": true, "stop_token_ids": [Z_C], "logprobs": 0

with one more token in ``max_tokens``. All other requests, and servers of models that are no export of ours, stay as
they are. vLLM imports this module in each of its processes, so nothing heavy is imported before an export is found.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from laser_lightning.inference.vllm_request import ASKED

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor.interface import BatchUpdate
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState

try:  # a plugin that cannot be imported would keep vLLM of any other version from starting
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as SecondInterface
except ImportError:
    SecondInterface = object


class ScoredExport(NamedTuple):
    """What of an export the forced token takes.

    Attributes:
        token_id: of z_c.
        eos_token_ids: those that end responses.
    """

    token_id: int
    eos_token_ids: tuple[int, ...]


def scored_export(path: str) -> ScoredExport | None:
    """What a server serves; None for what is no export with self-rewards, such as a name on the hub.

    Args:
        path: the model as ``vllm serve`` is given it.
    """
    if not (Path(path) / "self_reward.json").is_file():
        return None
    from laser_lightning.inference.exported import read_export

    export = read_export(path)
    return ScoredExport(export.settings.token_id, export.eos_token_ids)


class ServedScore(SecondInterface):
    """The logits processor of vLLM's second model runner; called as that of the first one, it makes that one.

    Both are registered by one entry point, and each runner refuses the other's interface.
    """

    def __new__(cls, vllm_config: Any, *places: Any) -> Any:
        """Make the processor of the runner that asks: the first one gives a device and whether memory is pinned."""
        return _FirstRunnerScore(vllm_config) if len(places) > 1 else super().__new__(cls)

    def __init__(self, vllm_config: Any, req_states: "LogitsProcRequestState") -> None:
        self.export = scored_export(vllm_config.model_config.model)
        if self.export is None:
            return
        self.prompt_lengths = req_states.prompt_len
        self.asked = torch.zeros(req_states.max_num_reqs, dtype=torch.bool, device=req_states.device)
        self.known = self.asked.cpu().numpy()
        self.eos_token_ids = torch.tensor(self.export.eos_token_ids, device=req_states.device)

    @classmethod
    def validate_params(cls, sampling_params: "SamplingParams") -> None:
        """Refuse a request whose score could not be told, or that would not end.

        Raises:
            ValueError: vLLM's answer is then an HTTP status 400 with the sentence.
        """
        if not _asks(sampling_params):
            return
        if not sampling_params.ignore_eos or not sampling_params.stop_token_ids or sampling_params.logprobs is None:
            raise ValueError(
                f"vllm_xargs.{ASKED} needs three more fields: ignore_eos: true, stop_token_ids: [the token_id of "
                "self_reward.json], and logprobs: 0 (in chats logprobs: true)."
            )

    def add_request(self, req_idx: int, sampling_params: "SamplingParams") -> bool:
        """Note whether the request in this slot asks for its score."""
        if self.export is None:
            return False
        self.known[req_idx] = asks = _asks(sampling_params)
        self.asked[req_idx] = asks
        return asks

    def apply(self, logits: Tensor, ctx: "LogitsContext") -> Tensor:
        """Rewrite the logits [B, V] (float32) of the rows that ask."""
        if self.export is None or not self.known[ctx.idx_mapping_np].any():
            return logits
        slots = ctx.expanded_idx_mapping
        asked = self.asked[slots]
        responded = ctx.pos >= self.prompt_lengths.gpu[slots]  # an <eos> in the prompt ends nothing
        ended = asked & responded & torch.isin(ctx.input_ids, self.eos_token_ids)
        return _leave_reward_token(logits, asked, ended, self.export.token_id)


class _FirstRunnerScore:
    """The same for vLLM's first model runner (``vllm.v1.sample.logits_processor``)."""

    def __init__(self, vllm_config: Any) -> None:
        self.export = scored_export(vllm_config.model_config.model)
        self.rows: dict[int, list[int]] = {}
        if self.export is not None and vllm_config.scheduler_config.async_scheduling:
            logging.getLogger("vllm.laser_lightning").warning(
                "This model runner does not know a response's last token while it schedules ahead, so that scores take "
                "a second request: start vllm serve with --no-async-scheduling for scores in the first one."
            )
            self.export = None

    def is_argmax_invariant(self) -> bool:
        """The forced z_c changes what greedy decoding picks."""
        return self.export is None

    def update_state(self, batch_update: "BatchUpdate | None") -> None:
        """Follow the requests that ask as they enter, move within and leave the batch."""
        if self.export is not None:
            from vllm.v1.sample.logits_processor.builtin import process_dict_updates

            # The list of a request's tokens is vLLM's own, which grows.
            process_dict_updates(
                self.rows, batch_update, lambda params, prompt_ids, output_ids: output_ids if _asks(params) else None
            )

    def apply(self, logits: Tensor) -> Tensor:
        """Rewrite the logits [B, V] (float32) of the rows that ask."""
        if not self.rows or self.export is None:
            return logits
        asked, ended = torch.zeros(2, len(logits), dtype=torch.bool)
        for row, output_ids in self.rows.items():
            asked[row] = True
            ended[row] = bool(output_ids) and output_ids[-1] in self.export.eos_token_ids
        return _leave_reward_token(logits, asked.to(logits.device), ended.to(logits.device), self.export.token_id)


def _asks(params: "SamplingParams") -> bool:
    return bool((params.extra_args or {}).get(ASKED))


def _leave_reward_token(logits: Tensor, asked: Tensor, ended: Tensor, token_id: int) -> Tensor:
    """Take z_c out of responses, where it would end the request early, and all else out behind them."""
    own = logits[:, token_id].masked_fill(asked, -torch.inf).masked_fill(ended, 0.0)
    logits.masked_fill_(ended[:, None], -torch.inf)
    logits[:, token_id] = own
    return logits
