"""What ``vllm serve`` would say, computed for a model."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from fake_server import Answer


@dataclass
class FakeVLLM:
    """What ``vllm serve`` answers, computed by transformers in the slowest way, for one model.

    With ``processor`` it runs the score processor: behind an ``<eos>`` only the reward token follows.
    """

    lm: PreTrainedModel
    processor: bool = False
    version: str = "default"
    paused: bool = False
    logprobs_mode: str = ""
    weight_transfer: str | None = None
    """Backend of ``--weight-transfer-config``."""
    trouble: Answer | None = None
    """Asked before each response; what it returns, if anything, is answered in place of that."""
    drawn: int = 0
    lock: Any = field(default_factory=threading.Lock)

    @property
    def answers(self) -> dict[str, Answer]:
        mode = self.logprobs_mode or ("processed_logits" if self.processor else "processed_logprobs")
        processors = ["laser_lightning.rollout.vllm.score:ScoreProcessor"] if self.processor else None
        settings = {"logprobs_mode": mode, "logits_processors": processors}
        config = {"model_config": settings, "scheduler_config": {"async_scheduling": False}}
        config |= {"weight_transfer_config": self.weight_transfer and {"backend": self.weight_transfer}}
        return {
            "/v1/models": lambda asked: {"data": [{"id": "tiny", "root": "tiny", "max_model_len": 64}]},
            "/server_info": lambda asked: {"vllm_config": config},
            "/weight_info": lambda asked: {"weight_version": self.version},
            "/update_weight_version": lambda asked: self.__dict__.update(version=asked["new_version"]),
            "/pause": lambda asked: self.__dict__.update(paused=True),
            "/resume": lambda asked: self.__dict__.update(paused=False),
            "/reset_prefix_cache": lambda asked: {"success": True},
            "/collective_rpc": self.load,
            "/inference/v1/generate": self.generate,
        }

    def load(self, asked: dict[str, Any]) -> Any:
        assert self.paused
        assert self.version == "incomplete"
        files = sorted(Path(asked["kwargs"]["weights_path"]).glob("*.safetensors"))
        with self.lock:
            self.lm.load_state_dict({name: weight for file in files for name, weight in load_file(file).items()})

    def generate(self, asked: dict[str, Any]) -> Any:
        assert not self.paused
        said = self.trouble(asked) if self.trouble is not None else None
        if said is not None:
            return said
        params, size = asked["sampling_params"], self.lm.config.vocab_size
        read = params.get("logprob_token_ids", [])
        if any(token_id >= size for token_id in read):
            return 400, '{"error": {"message": "out of vocabulary"}}'
        generator = torch.Generator().manual_seed(params["seed"])
        settings = params.get("extra_args", {}).get("laser")
        ids, places, sequence = [], [], list(asked["token_ids"])
        while len(ids) < params["max_tokens"] and not (ids and ids[-1] in params["stop_token_ids"]):
            with self.lock, torch.no_grad():
                logits = self.lm(torch.tensor([sequence])).logits[0, -1].double()
            log_probs = (logits / (params["temperature"] or 1)).log_softmax(-1)
            token_id = int(torch.multinomial(log_probs.exp(), 1, generator=generator))
            if settings is not None and (settings[1] is None or (ids and ids[-1] in settings[1])):
                token_id, log_probs = settings[0], logits.log_softmax(-1)
            others = [{"token_id": t, "logprob": float(log_probs[t])} for t in dict.fromkeys([token_id, *read])]
            places.append({"token_id": token_id, "logprob": float(log_probs[token_id]), "top_logprobs": others})
            ids, sequence = [*ids, token_id], [*sequence, token_id]
        self.drawn += 1
        stopped = ids[-1] in params["stop_token_ids"]
        span = {"version": self.version, "start": 0, "end": len(ids)}
        choice = {"finish_reason": "stop" if stopped else "length", "token_ids": ids, "logprobs": {"content": places}}
        return {"choices": [choice | {"weight_versions": [span]}]}
